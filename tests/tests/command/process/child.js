// A child that does what messages tell it to: {"act": …, "n": …}.
const fs = require('fs');
const { spawn } = require('child_process');

const say = (answer) => fs.writeSync(1, JSON.stringify(answer) + '\n');
const done = (id, msg) => say({ id, emit: [{ port: 'out', msg }] });

if (process.env.STUBBORN) {
  process.on('SIGTERM', () => console.error('not me'));
  setInterval(() => {}, 1000);
}

const lines = require('readline').createInterface({ input: process.stdin });
lines.on('close', () => {
  if (process.env.FAREWELL) fs.writeFileSync(process.env.FAREWELL, 'stdin ended');
});
lines.on('line', (line) => {
  const { id, topic, type, attempt, headers, msg } = JSON.parse(line);
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
    twice: () => { done(id, { n: msg.n }); done(id, { n: msg.n }); },
  };
  acts[msg.act]();
});
