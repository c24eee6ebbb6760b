// The hop by hand in Node. An input is acked once the broker has confirmed its output, which
// is persistent and mandatory.
const amqp = require('amqplib-2');

const { AMQP_URL, MESSAGES } = process.env;

async function main() {
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  let left = Number(MESSAGES);
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createConfirmChannel();
  channel.on('return', () => { throw new Error('nowhere to go'); });
  await channel.prefetch(256);
  const properties = { persistent: true, mandatory: true, contentType: 'application/json', type: 'order' };
  await new Promise((resolve, reject) => channel.consume('bench.hop.in', (delivery) => {
    const order = JSON.parse(delivery.content);
    order.quantity += 1;
    const out = { ...properties, messageId: delivery.properties.messageId };
    channel.publish('bench', 'done', Buffer.from(JSON.stringify(order)), out, (error) => {
      if (error) return reject(error);
      channel.ack(delivery);
      if (--left === 0) resolve();
    });
  }));
  await channel.close();
  await connection.close();
  const { user, system } = process.cpuUsage(cpu);
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  console.log(JSON.stringify({ seconds, cpu: (user + system) / 1e6 }));
}

main();
