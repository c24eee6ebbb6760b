// node source.js MODE COUNT [DELAY]: a source that sends { n } from its position to COUNT, and
// misbehaves as MODE says: once, at 5.
const fs = require('fs');

const [MODE, COUNT, DELAY = ''] = process.argv.slice(2);
const count = Number(COUNT);
const say = (line) => fs.writeSync(1, typeof line === 'string' ? line : JSON.stringify(line) + '\n');
const send = (n, more = {}) => say({ id: `${n}`, msg: { n, pid: process.pid, ...more }, position: n });
const once = () => { try { fs.writeFileSync('mark', '', { flag: 'wx' }); return true; } catch { return false; } };

let acked = 0;
if (MODE === 'stubborn') {
  process.on('SIGTERM', () => console.error('not me'));
  setInterval(() => {}, 1000);
}
const faults = {
  garbage: () => say('ready!\n'),
  long: () => say('x'.repeat(100000) + '\n'),
  flood: () => { for (;;) say('x'.repeat(1000)); },
  half: () => { say('{"id":"5","msg":{"n":5'); process.exit(0); },
  exit: () => process.exit(3),
  zero: () => process.exit(0),
  close: () => { fs.closeSync(1); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); },
  noid: () => say({ msg: 1 }),
  port: () => say({ id: '5', msg: 1, port: 'elsewhere' }),
};

async function run(position) {
  acked = position || 0;
  for (let n = (position || 0) + 1; n <= count; n += 1) {
    if (n === 5 && faults[MODE] && once()) faults[MODE]();
    if (MODE === 'big' && n === 2) say({ id: '2', msg: 'x'.repeat(2000), position: 2 });
    else send(n);
    if (DELAY || n % 100 === 0) await new Promise((resolve) => setTimeout(resolve, Number(DELAY)));
  }
  last();
}

// After the ack of the last message, exits if MODE doesn't say to stay.
const last = () => {
  if (acked >= count && !['stay', 'stubborn'].includes(MODE)) process.exit(0);
};

if (MODE === 'deaf') {
  const first = Buffer.alloc(1000);
  fs.readSync(0, first);
  for (let n = 1; n <= count; n += 1) send(n);
  process.exit(0);
}

const lines = require('readline').createInterface({ input: process.stdin });
lines.on('close', () => {
  if (MODE === 'stubborn') return;
  const { FAREWELL, HOME } = process.env;
  if (FAREWELL) fs.writeFileSync(FAREWELL, `${acked} and ${HOME || 'no HOME'}`);
  process.exit(0);
});
lines.on('line', (line) => {
  const { position, ack, refused, error } = JSON.parse(line);
  if (ack) acked = Number(ack);
  if (refused) say({ id: `refused ${refused}`, msg: { refused, error } });
  if (position !== undefined) run(position);
  else last();
});
