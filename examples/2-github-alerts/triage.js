// Triage: says which team an alert is for, and whether it can wait.
//
// A service of its own, in plain Node: each line of stdin is a message, each line of
// stdout answers one. Whatever goes wrong in here is the runtime's business: a crash is
// tried again, a thrown error ends this process and another one is started.

const TEAMS = { 'alerts.issues': 'support', 'alerts.checks': 'build', 'alerts.security': 'security' };
const SEVERE = ['critical', 'high', 'error'];

const lines = require('readline').createInterface({ input: process.stdin });

lines.on('line', (line) => {
  const { id, topic, msg } = JSON.parse(line);
  const answer = (rest) => process.stdout.write(JSON.stringify({ id, ...rest }) + '\n');

  const team = TEAMS[topic];
  if (!team) return answer({ error: `nobody looks at ${topic}`, retry: false });

  const urgent = team === 'build' || SEVERE.includes(msg.severity);
  const text = `${msg.repo}: ${msg.title}`;
  answer({ emit: [{ port: urgent ? 'urgent' : 'later', msg: { team, text, url: msg.url } }] });
});
