// A child that does what messages tell it to: {"act": …, "n": …}.
const fs = require('fs');
const { spawn } = require('child_process');

const say = (answer) => fs.writeSync(1, JSON.stringify(answer) + '\n');
const done = (id, msg) => say({ id, emit: [{ port: 'out', msg }] });

if (process.env.STUBBORN) {
  process.on('SIGTERM', () => console.error('not me'));
  setInterval(() => {}, 1000);
}

// Requests without a reply, by message and id.
const asked = new Map();
const ask = (id, nr, msg, then, port = 'price') => {
  asked.set(`${id} ${nr}`, then);
  say({ id, ask: nr, port, msg });
};
const deferred = new Map();

const lines = require('readline').createInterface({ input: process.stdin });
lines.on('close', () => {
  if (process.env.FAREWELL) fs.writeFileSync(process.env.FAREWELL, 'stdin ended');
});
lines.on('line', (line) => {
  const { id, topic, type, attempt, headers, msg, ...answer } = JSON.parse(line);
  if (answer.ask) {
    const { ask: nr, reply, error } = answer;
    return asked.get(`${id} ${nr}`)(reply, error);
  }
  const acts = {
    pid: () => done(id, { n: msg.n, pid: process.pid }),
    tell: () => done(id, { topic, type, attempt, headers, n: msg.n }),
    wait: () => {
      if (msg.mark) fs.writeFileSync(msg.mark, 'in hand');
      setTimeout(() => done(id, { n: msg.n, pid: process.pid, attempt }), msg.ms);
    },
    never: () => {},
    many: () => say({ id, emit: [{ port: 'out', msg: 1 }, { port: 'other', type: 'new', msg: 2 }] }),
    none: () => say({ id, emit: [] }),
    fail: () => (attempt < 3 ? say({ id, error: 'not yet', retry: true }) : done(id, { attempt })),
    reject: () => say({ id, error: 'never', retry: false }),
    env: () => done(id, process.env),
    log: () => { console.error(msg.text); done(id, null); },
    fork: () => {
      const child = spawn('sleep', ['600'], { stdio: 'ignore' });
      done(id, { pid: process.pid, grandchild: child.pid });
    },
    exit: () => process.exit(3),
    abort: () => process.abort(),
    hang: () => { for (;;) {} },
    hello: () => console.log('hello'),
    stranger: () => say({ id: 'nobody', emit: [] }),
    port: () => say({ id, emit: [{ port: 'elsewhere', msg: 1 }] }),
    both: () => say({ id, emit: [], error: 'and yet' }),
    long: () => fs.writeSync(1, 'x'.repeat(100000) + '\n'),
    flood: () => { for (;;) fs.writeSync(1, 'x'.repeat(1000)); },
    close: () => { fs.closeSync(1); },
    ask: () => ask(id, 'q', msg.ask, (reply, error) => done(id, { n: msg.n, reply, error })),
    ask_many: () => {
      const replies = [];
      let missing = msg.count;
      for (let i = 0; i < msg.count; i += 1) {
        const request = { act: 'reply', ms: 5 * (msg.count - i), reply: msg.n * 100 + i };
        ask(id, `${i}`, request, (reply) => {
          replies[i] = reply;
          missing -= 1;
          if (missing === 0) done(id, { n: msg.n, replies });
        });
      }
    },
    reply: () => setTimeout(() => say({ id, emit: [], reply: msg.reply }), msg.ms || 0),
    ask_exit: () => { ask(id, 'q', { act: 'reply', ms: 50, reply: 0 }); setTimeout(() => process.exit(3), 20); },
    ask_port: () => ask(id, 'q', 1, null, 'elsewhere'),
    ask_flood: () => { for (let i = 0; ; i += 1) ask(id, `${i}`, { act: 'never' }); },
    ask_same: () => { ask(id, 'q', { act: 'never' }); ask(id, 'q', { act: 'never' }); },
    ask_stranger: () => ask('nobody', 'q', 1),
    ask_half: () => say({ id, ask: 'q' }),
    defer: () => {
      const times = (deferred.get(id) || 0) + 1;
      deferred.set(id, times);
      if (times > msg.times) done(id, { n: msg.n, attempt });
      else say({ id, error: 'not now', defer: '10ms' });
    },
    after: () => say({ id, error: 'slow down', after: '10ms' }),
    twice: () => { done(id, { n: msg.n }); done(id, { n: msg.n }); },
  };
  acts[msg.act]();
});
