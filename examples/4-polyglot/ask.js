// Sends a request to an app and prints the reply. With --tell, only publishes a message.
// Usage: node ask.js TOPIC JSON [--tell]
const amqp = require('amqplib');
const { randomBytes, randomUUID } = require('crypto');

const { AMQP_URL = 'amqp://guest:guest@127.0.0.1', APP = 'polyglot' } = process.env;
const [topic, json, tell] = process.argv.slice(2);

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createConfirmChannel();
  const id = randomUUID();
  const headers = {
    cloudEvents_specversion: '1.0', cloudEvents_id: id, cloudEvents_type: topic,
    cloudEvents_source: '/ask.js', cloudEvents_time: new Date().toISOString(),
    traceparent: `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`,
  };
  const properties = { persistent: true, contentType: 'application/json', messageId: id, headers };
  const answered = new Promise((resolve, reject) => {
    if (tell) return resolve();
    // Direct reply-to: the broker sends replies to this channel, without a queue.
    channel.consume('amq.rabbitmq.reply-to', resolve, { noAck: true });
    Object.assign(properties, { replyTo: 'amq.rabbitmq.reply-to', correlationId: id });
    // Unix time in ms. No reply is needed after it.
    headers['brickwork-deadline'] = Date.now() + 10000;
    setTimeout(() => reject(new Error('no answer within 10 s')), 10000).unref();
  });
  channel.publish(APP, topic, Buffer.from(json), properties);
  await channel.waitForConfirms();
  const answer = await answered;
  const error = answer?.properties.headers['brickwork-error'];
  if (error) throw new Error(error);
  console.log(tell ? `published ${headers.traceparent}` : answer.content.toString());
  await connection.close();
}

main().catch((error) => { console.error(error.message); process.exit(1); });
