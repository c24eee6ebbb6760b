// The outside world of the example: every API that the app calls, and the senders of its webhooks.
// The servers fail by a script. Needs Node 18 or later, and no packages.
//
//   node world.js [--seconds 60] [--events 1800] [--customers 1000] [--calm]
//
//   port  server     content
//   7700  control    GET /expected, /chat, /mail, /summary: JSON for tests and for you
//   7701  crm        GET /activities?since=MS&cursor=…: a paginated API that the app polls
//   7702  profiles   POST /token (OAuth2), GET /profiles/CUSTOMER: slow, and often in trouble
//   7703  chat       POST /hooks/CUSTOMER: at most 3 posts per customer and second
//   7704  mail       SMTP
//
// The app listens for webhooks on 7708 (GitHub) and 7709 (Stripe). WORLD=123 moves the ports to
// 1230 to 1239, for both programs.
'use strict'
const { createHmac } = require('node:crypto')
const http = require('node:http')
const net = require('node:net')
const { parseArgs } = require('node:util')

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    events: { type: 'string', default: '1800' },
    customers: { type: 'string', default: '1000' },
    calm: { type: 'boolean', default: false },
  },
})
const SECONDS = Number(options.seconds)
const EVENTS = Number(options.events)
const CUSTOMERS = Number(options.customers)
const PORT = Number(process.env.WORLD || 770) * 10
const GITHUB_SECRET = process.env.GITHUB_SECRET || 'github-secret'
const STRIPE_SECRET = process.env.STRIPE_SECRET || 'whsec_stripe'
const CLIENT_SECRET = process.env.PROFILES_SECRET || 'client-secret'

// ---------------------------------------------------------------- the script of faults

// Begin and length, in parts of the whole run. In a run of ten minutes 0.05 is 30 seconds.
const SCRIPT = [
  { host: 'profiles', fault: 'error', from: 0.04, for: 0.05 }, // 500
  { host: 'chat', fault: 'error', from: 0.11, for: 0.05 },
  { host: 'profiles', fault: 'hang', from: 0.18, for: 0.04 }, // no answer
  { host: 'chat', fault: 'seconds', from: 0.24, for: 0.04 }, // 429, Retry-After: seconds
  { host: 'chat', fault: 'date', from: 0.30, for: 0.04 }, // 429, Retry-After: a date
  { host: 'profiles', fault: 'half', from: 0.36, for: 0.03 }, // half an answer
  { host: 'profiles', fault: 'reset', from: 0.41, for: 0.03 }, // connection reset
  { host: 'profiles', fault: 'revoke', from: 0.46, for: 0 }, // all tokens expire at once
  { host: 'profiles', fault: 'slow', from: 0.48, for: 0.06 }, // two seconds for an answer
  { host: 'crm', fault: 'error', from: 0.56, for: 0.05 },
  { host: 'crm', fault: 'half', from: 0.62, for: 0.03 },
  { host: 'mail', fault: 'error', from: 0.66, for: 0.05 }, // 421
  { host: 'chat', fault: 'reset', from: 0.73, for: 0.03 },
  { host: 'mail', fault: 'hang', from: 0.77, for: 0.03 },
  { host: 'chat', fault: 'hang', from: 0.82, for: 0.03 },
]
// Redirected to the metadata service of a cloud, always: a call that must not be made.
const MOVED = event(7).customer

let started // when the app listened
const part = () => (started ? (Date.now() - started) / 1000 / SECONDS : 0)
let tokensFrom = 0 // tokens before this number have expired

function faultOf(host) {
  if (options.calm) return undefined
  const now = part()
  const found = SCRIPT.find((it) => it.host === host && it.from <= now && now < it.from + it.for)
  return found && found.fault
}

function play() {
  started = Date.now()
  if (options.calm) return
  for (const it of SCRIPT) {
    setTimeout(() => {
      if (it.fault === 'revoke') tokensFrom = tokens
      console.log(`${it.host}: ${it.fault}` + (it.for ? ` for ${(it.for * SECONDS).toFixed(1)} s` : ''))
    }, it.from * SECONDS * 1000)
  }
}

// Carries a fault out on an HTTP answer. Returns false if there is none.
function fail(host, answer) {
  const fault = faultOf(host)
  count(host, fault || 'served')
  switch (fault) {
    case 'error':
      return json(answer, 500, { error: 'internal error' })
    case 'seconds':
      return json(answer, 429, { error: 'slow down' }, { 'Retry-After': '1' })
    case 'date': {
      const later = new Date(Date.now() + 2000).toUTCString()
      return json(answer, 429, { error: 'slow down' }, { 'Retry-After': later })
    }
    case 'half':
      answer.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': 1000 })
      answer.write('{"half": "of an ans')
      setTimeout(() => answer.destroy(), 20)
      return true
    case 'reset':
      answer.socket.resetAndDestroy()
      return true
    case 'hang':
      // The connection stays open until the client gives up.
      return true
    default:
      return false
  }
}

// ---------------------------------------------------------------- the events

function customer(n) {
  return `c${String(n).padStart(4, '0')}`
}

// A number that looks random: the same in each run.
function draw(n, salt) {
  const bytes = createHmac('sha256', `world-${salt}`).update(String(n)).digest()
  return bytes.readUInt32BE(0)
}

// Event n: an issue, a payment or an activity. Some customers are busier than others.
function event(n) {
  const of = customer(Math.min(draw(n, 1) % CUSTOMERS, draw(n, 2) % CUSTOMERS))
  const kind = ['issue', 'payment', 'activity'][n % 3]
  // Refused by the schema.
  const valid = !(kind === 'payment' && n % 50 === 1)
  return { id: `${kind}-${n}`, n, kind, customer: of, cents: valid ? 1 + (draw(n, 3) % 20000) : -1, valid }
}

const events = Array.from({ length: EVENTS }, (_, n) => event(n))
const activities = [] // as far as they have happened, in the order of `at`
const counts = {}
const posts = new Map() // by idempotency key
const mails = new Map() // by Message-ID
let sent = 0
let tokens = 0

function count(host, name) {
  counts[host] ??= {}
  counts[host][name] = (counts[host][name] || 0) + 1
}

// ---------------------------------------------------------------- the servers

function json(answer, status, body, headers = {}) {
  answer.writeHead(status, { 'Content-Type': 'application/json', ...headers })
  answer.end(JSON.stringify(body))
  return true
}

async function bodyOf(request) {
  let text = ''
  for await (const piece of request) text += piece
  return text
}

function serve(offset, handle) {
  const server = http.createServer((request, answer) => {
    const url = new URL(request.url, 'http://world')
    Promise.resolve(handle(request, answer, url)).catch(() => answer.destroy())
  })
  server.keepAliveTimeout = 30000
  server.listen(PORT + offset, '127.0.0.1')
}

// The CRM: activities since a time, 50 a page. Several may have the same time.
serve(1, (request, answer, url) => {
  if (request.headers['x-api-key'] !== 'crm-key') return json(answer, 401, { error: 'no key' })
  if (fail('crm', answer)) return
  const since = Number(url.searchParams.get('since') || 0)
  const until = Number(url.searchParams.get('until') || Infinity)
  const from = Number(url.searchParams.get('cursor') || 0)
  const all = activities.filter((it) => it.at >= since && it.at < until)
  const next = from + 50 < all.length ? String(from + 50) : null
  json(answer, 200, { items: all.slice(from, from + 50), next })
})

// Profiles: behind a token. The token's server takes its time, so that clients meet there.
serve(2, async (request, answer, url) => {
  if (url.pathname === '/token') {
    const form = new URLSearchParams(await bodyOf(request))
    const basic = `Basic ${Buffer.from(`app:${CLIENT_SECRET}`).toString('base64')}`
    const is_known = request.headers.authorization === basic || form.get('client_secret') === CLIENT_SECRET
    if (!is_known) return json(answer, 401, { error: 'invalid_client' })
    count('profiles', 'tokens')
    const token = { access_token: `token-${tokens++}`, token_type: 'Bearer', expires_in: 3600 }
    return setTimeout(() => json(answer, 200, token), 200)
  }
  if (fail('profiles', answer)) return
  const token = Number((request.headers.authorization || '').split('token-')[1] ?? -1)
  if (!(token >= tokensFrom)) {
    count('profiles', 'expired')
    return json(answer, 401, { error: 'token expired' })
  }
  const of = url.pathname.split('/')[2]
  if (of === MOVED) {
    return json(answer, 302, {}, { Location: 'http://169.254.169.254/latest/meta-data/' })
  }
  const plan = draw(Number(of.slice(1)), 4) % 10 === 0 ? 'enterprise' : 'team'
  const wait = faultOf('profiles') === 'slow' ? 2000 : 10
  setTimeout(() => json(answer, 200, { customer: of, name: `Customer ${of}`, plan }), wait)
})

// Chat: a post with a key that is known is not shown again.
const seconds = new Map() // times of the last posts of a customer
serve(3, async (request, answer, url) => {
  const text = await bodyOf(request)
  if (fail('chat', answer)) return
  const of = url.pathname.split('/')[2]
  const now = Date.now()
  const last = (seconds.get(of) || []).filter((at) => now - at < 1000)
  if (last.length >= 3) {
    count('chat', 'too fast')
    return json(answer, 429, { error: 'three a second' }, { 'Retry-After': '1' })
  }
  seconds.set(of, [...last, now])
  const key = request.headers['idempotency-key']
  if (!key) return json(answer, 400, { error: 'no Idempotency-Key' })
  if (posts.has(key)) count('chat', 'again')
  else posts.set(key, { customer: of, at: now, ...JSON.parse(text) })
  json(answer, 200, { ok: true })
})

// Mail: as much of SMTP as a client needs.
net.createServer((socket) => {
  let rest = ''
  let mail
  const say = (line) => socket.write(`${line}\r\n`)
  const handle = (line) => {
    if (mail && mail.lines) {
      if (line !== '.') return void mail.lines.push(line)
      const found = /^message-id: *(\S+)/im.exec(mail.lines.join('\n'))
      const id = found ? found[1] : `none-${mails.size}`
      count('mail', mails.has(id) ? 'again' : 'served')
      mails.set(id, { to: mail.to, text: mail.lines.join('\n') })
      mail = undefined
      return say('250 kept')
    }
    const verb = line.slice(0, 4).toUpperCase()
    if (verb === 'EHLO' || verb === 'HELO') return say('250 world')
    if (verb === 'QUIT') return socket.end('221 bye\r\n')
    if (verb === 'MAIL') {
      const fault = faultOf('mail')
      if (fault) count('mail', fault)
      if (fault === 'hang') return
      if (fault) return socket.end('421 closing\r\n')
      mail = { to: [] }
    }
    if (verb === 'RCPT') mail?.to.push(line.slice(8))
    if (verb === 'RSET') mail = undefined
    if (verb === 'DATA' && mail) {
      mail.lines = []
      return say('354 go on')
    }
    say('250 ok')
  }
  socket.on('error', () => {})
  socket.on('data', (bytes) => {
    rest += bytes.toString('latin1')
    const lines = rest.split('\r\n')
    rest = lines.pop()
    lines.forEach(handle)
  })
  say('220 world ESMTP')
}).listen(PORT + 4, '127.0.0.1')

const summary = () => ({ sent, events: EVENTS, posts: posts.size, mails: mails.size, tokens, hosts: counts })
serve(0, (_, answer, url) => {
  const views = {
    '/expected': () => events.map((it) => ({ ...it, moved: it.customer === MOVED })),
    '/chat': () => [...posts.values()],
    '/mail': () => [...mails.values()],
    '/summary': summary,
  }
  const view = views[url.pathname]
  return view ? json(answer, 200, view()) : json(answer, 404, { paths: Object.keys(views) })
})

// ---------------------------------------------------------------- the senders

function issue(it) {
  const issue = { number: it.n, title: `Problem ${it.n}`, user: { login: 'ada' } }
  const repository = { full_name: `${it.customer}/app`, owner: { login: it.customer } }
  return JSON.stringify({ action: 'opened', issue, repository, sent: Date.now() })
}

function payment(it) {
  const object = { id: `pi_${it.n}`, customer: it.customer, amount: it.cents, currency: 'eur' }
  const created = Math.floor(Date.now() / 1000)
  return JSON.stringify({ id: `evt_${it.n}`, type: 'payment_intent.succeeded', created, data: { object }, sent: Date.now() })
}

function signed(it, secret) {
  if (it.kind === 'issue') {
    const body = issue(it)
    const hex = createHmac('sha256', secret || GITHUB_SECRET).update(body).digest('hex')
    const own = { 'X-GitHub-Event': 'issues', 'X-GitHub-Delivery': `delivery-${it.n}` }
    return { port: PORT + 8, body, headers: { ...own, 'X-Hub-Signature-256': `sha256=${hex}` } }
  }
  const body = payment(it)
  const time = Math.floor(Date.now() / 1000)
  const hex = createHmac('sha256', secret || STRIPE_SECRET).update(`${time}.${body}`).digest('hex')
  return { port: PORT + 9, body, headers: { 'Stripe-Signature': `t=${time},v1=${hex}` } }
}

function post({ port, body, headers }) {
  return new Promise((done) => {
    const to = { host: '127.0.0.1', port, path: '/hook', method: 'POST', timeout: 10000 }
    const request = http.request({ ...to, headers: { 'Content-Type': 'application/json', ...headers } })
    request.on('response', (answer) => {
      answer.resume()
      answer.on('close', () => done(answer.statusCode))
    })
    request.on('timeout', () => request.destroy())
    request.on('error', () => done(0))
    request.end(body)
  })
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms))

// Sends a webhook until it is accepted, as vendors do.
async function deliver(it) {
  if (it.n % 60 === 0) count('app', `${await post(signed(it, 'wrong secret'))} for a wrong signature`)
  for (;;) {
    const status = await post(signed(it))
    if (status === 202) break
    count('app', `${status || 'no answer'} for a webhook`)
    await pause(500)
  }
  sent += 1
}

async function send() {
  // The run begins when the app listens.
  const isThere = () => new Promise((done) => {
    const socket = net.connect(PORT + 8, '127.0.0.1', () => done(socket.end() !== undefined))
    socket.on('error', () => done(false))
  })
  const every = (SECONDS * 0.9 * 1000) / EVENTS
  while (!(await isThere())) await pause(200)
  play()
  for (const it of events) {
    const wait = started + it.n * every - Date.now()
    if (wait > 0) await pause(wait)
    if (it.kind === 'activity') {
      // In tens of milliseconds, so that several have the same time.
      const at = Math.floor(Date.now() / 10) * 10
      activities.push({ id: it.id, customer: it.customer, at, text: `Call ${it.n}`, sent: Date.now() })
      sent += 1
    } else {
      deliver(it)
      if (it.n % 40 === 0) setTimeout(() => deliver({ ...it }).then(() => (sent -= 1)), 300)
    }
  }
}

send().then(() => console.log('all sent'))
console.log(`ready on ports ${PORT} to ${PORT + 4}`)
setInterval(() => {
  const { hosts, ...line } = summary()
  console.log(JSON.stringify(line))
}, 5000).unref()
