// Triage: selects the team for each alert, and decides whether the alert is urgent.
//
// A service in plain Node. Each line of stdin is a message, each line of stdout answers one
// message. The runtime handles failures: when this process crashes, also by a thrown error,
// the runtime restarts it and retries the message in flight.

const TEAMS = { 'alerts.issues': 'support', 'alerts.checks': 'build', 'alerts.security': 'security' };
const SEVERE = ['critical', 'high', 'error'];

const lines = require('readline').createInterface({ input: process.stdin });

lines.on('line', (line) => {
  const { id, topic, msg } = JSON.parse(line);
  const answer = (result) => process.stdout.write(JSON.stringify({ id, ...result }) + '\n');

  const team = TEAMS[topic];
  if (!team) return answer({ error: `no team handles topic ${topic}`, retry: false });

  const urgent = team === 'build' || SEVERE.includes(msg.severity);
  const text = `${msg.repo}: ${msg.title}`;
  answer({ emit: [{ port: urgent ? 'urgent' : 'later', msg: { team, text, url: msg.url } }] });
});
