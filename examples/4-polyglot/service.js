// A service of an app, in plain Node: it reads a topic, publishes on another what comes of
// each message, and answers those who ask. It knows the broker and the names of the topics.
const amqp = require('amqplib');
const { randomBytes } = require('crypto');

const { AMQP_URL = 'amqp://guest:guest@127.0.0.1', APP = 'polyglot' } = process.env;
const { IN = 'orders.placed', OUT = 'orders.priced', NAME = 'pricing' } = process.env;

function work(order) {
  if (!(order.quantity > 0)) throw new Error('nothing is ordered');
  return { ...order, price: order.quantity * 5 };
}

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  connection.on('close', () => process.exit(1)); // whoever keeps it alive starts it again
  const channel = await connection.createConfirmChannel();
  const queue = `${NAME}.${IN}`; // our own: the app neither makes it nor knows it
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await channel.bindQueue(queue, APP, IN); // the app's exchange; its topics are the keys
  await channel.prefetch(16);
  await channel.consume(queue, (delivery) => handle(channel, delivery));
  console.log('ready');
}

function handle(channel, delivery) {
  const { headers, messageId, correlationId, replyTo } = delivery.properties;
  const id = `${messageId}/${NAME}`; // done twice, it's the same message twice
  const [, trace = randomBytes(16).toString('hex')] = (headers.traceparent || '').split('-');
  const event = { specversion: '1.0', id, type: OUT, source: `/${NAME}` };
  event.time = new Date().toISOString();
  const out = { traceparent: `00-${trace}-${randomBytes(8).toString('hex')}-01` };
  for (const name in event) out[`cloudEvents_${name}`] = event[name];
  let result = {};
  try {
    result = work(JSON.parse(delivery.content));
  } catch (error) {
    if (!replyTo) return channel.nack(delivery, false, false); // hopeless: not again
    out['brickwork-error'] = error.message; // what the asker is told
  }
  const [exchange, key] = replyTo ? ['', replyTo] : [APP, OUT];
  const properties = { persistent: true, contentType: 'application/json', type: OUT };
  Object.assign(properties, { messageId: id, correlationId, headers: out });
  // Only when the broker has what came of it, it may forget what was read.
  channel.publish(exchange, key, Buffer.from(JSON.stringify(result)), properties, (error) =>
    error ? channel.nack(delivery) : channel.ack(delivery));
}

main();
