// Asks for the tariff of each reading and emits a bill.
const { Failure, serve } = require('./brickwork');

serve(async ({ msg, attempt }, ask) => {
  if (msg.kwh <= 0) throw new Failure('a reading is over 0', { retry: false });
  // The first attempt at every tenth reading finds its meter busy.
  if (msg.kwh % 15 === 0 && attempt === 1) throw new Failure('the meter is busy', { after: '50ms' });
  const { cents } = await ask('tariff', { meter: msg.meter });
  return [{ port: 'out', type: 'bill', msg: { meter: msg.meter, cents: msg.kwh * cents } }];
});
