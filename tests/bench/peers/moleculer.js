// Calls of an action over the AMQP transporter: the nearest that Moleculer has. This process
// asks, 256 at a time; another one, which is measured, has the action.
const { fork } = require('child_process');
const { ServiceBroker } = require('moleculer');

const { AMQP_URL, MESSAGES } = process.env;
const CALLS = Number(MESSAGES);

function node(nodeID) {
  // What its guarantees don't depend on is set as with the others.
  const transporter = { type: 'AMQP', options: { url: AMQP_URL, prefetch: 256 } };
  return new ServiceBroker({ nodeID, logger: false, transporter });
}

async function answer() {
  const broker = node(`service-${process.pid}`);
  let cpu = null;
  broker.createService({
    name: 'hop',
    actions: {
      handle({ params }) {
        cpu ??= process.cpuUsage();
        return { ...params, quantity: params.quantity + 1 };
      },
    },
  });
  await broker.start();
  process.on('message', async () => {
    const { user, system } = process.cpuUsage(cpu);
    process.send((user + system) / 1e6);
    await broker.stop();
    process.exit();
  });
  process.send('ready');
}

async function ask() {
  const service = fork(__filename, ['answer']);
  const said = () => new Promise((resolve) => service.once('message', resolve));
  await said();
  const broker = node(`caller-${process.pid}`);
  await broker.start();
  await broker.waitForServices('hop');
  const order = { order: 1000000, sku: 'brick-red-2x4', quantity: 12, note: '' };
  order.note = 'x'.repeat(256 - JSON.stringify(order).length);
  const began = process.hrtime.bigint();
  let asked = 0;
  async function caller() {
    while (asked < CALLS) {
      const number = asked++;
      const answer = await broker.call('hop.handle', { ...order, order: 1000000 + number });
      if (answer.quantity !== 13 || answer.order !== 1000000 + number) throw new Error('wrong');
    }
  }
  await Promise.all(Array.from({ length: 256 }, caller));
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const cpu = said();
  service.send('end');
  console.log(JSON.stringify({ seconds, cpu: await cpu }));
  await broker.stop();
  process.exit();
}

if (process.argv[2] === 'answer') answer();
else ask();
