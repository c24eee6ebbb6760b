// What the runner does on the broker: `declare`, `fill`, or `check` that all is done and say
// how many inputs are there again, although they were acked.
const amqp = require('amqplib-2');

const { AMQP_URL, MESSAGES } = process.env;

function order(number) {
  const order = { order: 1000000 + number, sku: 'brick-red-2x4', quantity: 12, note: '' };
  order.note = 'x'.repeat(256 - JSON.stringify(order).length);
  return Buffer.from(JSON.stringify(order));
}

const verbs = {
  async declare(channel) {
    const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
    await channel.assertExchange('bench', 'topic', { durable: true });
    for (const [queue, key] of [['bench.hop.in', 'todo'], ['bench.sink.in', 'done']]) {
      await channel.assertQueue(queue, quorum);
      await channel.bindQueue(queue, 'bench', key);
    }
  },
  async fill(channel) {
    await channel.purgeQueue('bench.hop.in');
    await channel.purgeQueue('bench.sink.in');
    const properties = { persistent: true, contentType: 'application/json', type: 'order' };
    for (let number = 0; number < Number(MESSAGES); number++) {
      channel.publish('bench', 'todo', order(number), { ...properties, messageId: `fill-${number}` });
      if (number % 1000 === 999) await channel.waitForConfirms();
    }
    await channel.waitForConfirms();
  },
  async check(channel) {
    const left = (await channel.checkQueue('bench.hop.in')).messageCount;
    const done = (await channel.checkQueue('bench.sink.in')).messageCount;
    const one = done > 0 && (await channel.get('bench.sink.in', {}));
    if (one) channel.nack(one);
    const { quantity } = one ? JSON.parse(one.content) : {};
    if (one && one.properties.deliveryMode !== 2) throw new Error('it is not persistent');
    if (left > 256 || done !== Number(MESSAGES) || quantity !== 13) {
      throw new Error(`${left} left, ${done} done, a quantity of ${quantity}`);
    }
    console.log(left);
  },
};

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createConfirmChannel();
  await verbs[process.argv[2]](channel);
  await channel.close();
  await connection.close();
}

main();
