// A service in plain Node: consumes one topic and publishes a result for each message to
// another topic. It replies to requests. It knows only the broker and the topic names.
const amqp = require('amqplib');
const { randomBytes } = require('crypto');

const { AMQP_URL = 'amqp://guest:guest@127.0.0.1', APP = 'polyglot' } = process.env;
const { IN = 'orders.placed', OUT = 'orders.priced', NAME = 'pricing' } = process.env;

function work(order) {
  if (!(order.quantity > 0)) throw new Error('the quantity must be over 0');
  return { ...order, price: order.quantity * 5 };
}

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  connection.on('close', () => process.exit(1)); // a process manager restarts it
  const channel = await connection.createConfirmChannel();
  const queue = `${NAME}.${IN}`; // this program's queue, unknown to the app
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await channel.bindQueue(queue, APP, IN); // topic = routing key
  await channel.prefetch(16);
  await channel.consume(queue, (delivery) => handle(channel, delivery));
  console.log('ready');
}

function handle(channel, delivery) {
  const { headers, messageId, correlationId, replyTo } = delivery.properties;
  const id = `${messageId}/${NAME}`; // stable: a duplicate has the same id
  const [, trace = randomBytes(16).toString('hex')] = (headers.traceparent || '').split('-');
  const event = { specversion: '1.0', id, type: OUT, source: `/${NAME}` };
  event.time = new Date().toISOString();
  const out = { traceparent: `00-${trace}-${randomBytes(8).toString('hex')}-01` };
  for (const name in event) out[`cloudEvents_${name}`] = event[name];
  let result = {};
  try {
    result = work(JSON.parse(delivery.content));
  } catch (error) {
    if (!replyTo) return channel.nack(delivery, false, false); // drop it: a retry can't help
    out['brickwork-error'] = error.message; // the requester gets the error
  }
  const [exchange, key] = replyTo ? ['', replyTo] : [APP, OUT];
  const properties = { persistent: true, contentType: 'application/json', type: OUT };
  Object.assign(properties, { messageId: id, correlationId, headers: out });
  // Ack only after the broker has confirmed the result.
  channel.publish(exchange, key, Buffer.from(JSON.stringify(result)), properties, (error) =>
    error ? channel.nack(delivery) : channel.ack(delivery));
}

main();
