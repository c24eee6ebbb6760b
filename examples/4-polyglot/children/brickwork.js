// For programs that `process` or `process-source` starts. Copy this file beside yours.
// Logs belong on stderr: console.error.
'use strict';
const readline = require('readline');

const write = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const read = (onLine) => {
  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
  return lines.on('line', (line) => onLine(JSON.parse(line)));
};

// Fails a message: how = {} retries it with the service's back-off, { after: '30s' } after a
// time, { defer: '30s' } after a time without the loss of an attempt, { retry: false } never.
class Failure extends Error {
  constructor(text, how = {}) { super(text); this.how = how; }
}

// Handles messages. handler({ id, topic, type, attempt, headers, msg }, ask) returns a list of
// messages to emit ({ port, msg, type }), or { emit, reply }. await ask(port, msg) resolves with
// the reply of another service.
function serve(handler) {
  const asked = new Map(); // by message: its requests without a reply
  const handle = async (message) => {
    const requests = new Map();
    asked.set(message.id, requests);
    const ask = (port, msg) => new Promise((resolve, reject) => {
      handle.number = (handle.number || 0) + 1;
      requests.set(`${handle.number}`, { resolve, reject });
      write({ id: message.id, ask: `${handle.number}`, port, msg });
    });
    try {
      const done = (await handler(message, ask)) || [];
      return Array.isArray(done) ? { emit: done } : done;
    } catch (error) {
      return { error: String(error.message || error), ...error.how };
    } finally {
      asked.delete(message.id);
    }
  };
  read(async ({ ask, reply, error, ...message }) => {
    if (ask === undefined) return write({ id: message.id, ...(await handle(message)) });
    const requests = asked.get(message.id); // undefined: the message was answered meanwhile
    const request = requests && requests.get(ask);
    if (!request) return undefined;
    requests.delete(ask);
    return error === undefined ? request.resolve(reply) : request.reject(new Failure(error));
  });
}

// Sends messages. run(position, send) gets the saved position or null; send({ id, msg, port,
// type, position, … }) resolves when the message was accepted. When run resolves, the program
// exits after the last ack; it also exits when the app stops.
function source(run) {
  const sent = []; // in order, without an ack
  let idle = () => {};
  const settle = (count, act) => {
    for (const one of sent.splice(0, count)) act(one);
    if (sent.length === 0) idle();
  };
  const index = (wanted) => sent.findIndex(({ id }) => id === wanted);
  const send = (message) => {
    const accepted = new Promise((resolve, reject) => {
      sent.push({ id: message.id, resolve, reject });
    });
    accepted.catch(() => {}); // a caller need not wait: the runtime logs a refusal
    write(message);
    return accepted;
  };
  const main = async (position) => {
    await run(position, send);
    if (sent.length > 0) await new Promise((resolve) => { idle = resolve; });
    process.exit(0);
  };
  read(({ position, ack, refused, error }) => {
    if (ack !== undefined) settle(index(ack) + 1, (one) => one.resolve());
    else if (refused !== undefined) {
      settle(index(refused), (one) => one.resolve()); // those before it were accepted
      settle(1, (one) => one.reject(new Failure(error)));
    } else main(position).catch((failure) => { console.error(failure); process.exit(1); });
  }).on('close', () => process.exit(0));
}

module.exports = { Failure, serve, source };
