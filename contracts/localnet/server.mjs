// The embedded chain's HTTP service: node server.mjs --dir DIR [--listen HOST:PORT]
//
// /jsonRPC, /<method> and both under /api/v2 answer as toncenter v2 does; /local/faucet
// and /local/time exist only here. When ready it prints {"listening": url} on one line;
// it ends on SIGTERM or SIGINT and, with --parent-watch, when stdin ends.

import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { createRequire } from 'node:module';
import { Chain, Rejected } from './chain.mjs';
import { DiskFull, Ledger } from './ledger.mjs';
import { BadRequest, NotFound, Toncenter } from './toncenter.mjs';

const require = createRequire(import.meta.url);
const { Address } = require('@ton/core');

const MAX_BODY = 1 << 20;
const BLOCK_MS = 2000;
const MAX_FAUCET = 10n ** 18n;

// An uncaught error gives one line and an exit code. Exit code 1 would mean a found violation.
process.on('uncaughtException', (error) => {
  const usage = /^ERR_(PARSE_ARGS|SOCKET_BAD_PORT)/.test(error?.code ?? '');
  console.error(`embedded chain: ${String(error?.message ?? error).split('\n')[0]}`);
  process.exit(usage ? 2 : error?.syscall ? 5 : 70);
});

const options = parseArgs({
  options: {
    dir: { type: 'string' },
    listen: { type: 'string', default: '127.0.0.1:0' },
    'parent-watch': { type: 'boolean', default: false },
  },
}).values;

if (!options.dir) {
  console.error('usage: node server.mjs --dir DIR [--listen HOST:PORT] [--parent-watch]');
  process.exit(2);
}

function giveUp(error) {
  console.error(`embedded chain: ${error.message}`);
  process.exit(5);
}

let chain;
try {
  chain = await Chain.open(Ledger.open(options.dir));
} catch (error) {
  giveUp(error);
}
const api = new Toncenter(chain);

async function readBody(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > MAX_BODY) throw new BadRequest(`body: expected at most ${MAX_BODY} bytes`);
    parts.push(part);
  }
  const text = Buffer.concat(parts).toString();
  if (text === '') return {};
  try {
    const body = JSON.parse(text);
    if (body === null || typeof body !== 'object') throw new Error();
    return body;
  } catch {
    throw new BadRequest('body: expected a JSON object');
  }
}

const local = {
  async faucet({ address, amount }) {
    const value = BigInt(amount ?? -1);
    if (value <= 0n || value > MAX_FAUCET) throw new BadRequest('amount: expected 1 to 10^18 nano');
    const [entry] = await chain.faucet(Address.parse(address), value);
    return { lt: entry.lt, hash: entry.hash };
  },
  async time({ advance = 0 }) {
    if (!Number.isSafeInteger(advance) || advance < 0)
      throw new BadRequest('advance: expected a whole number of seconds, 0 or more');
    if (advance > 0) await chain.advance(advance);
    return { now: chain.now(), seqno: chain.ledger.head.seqno };
  },
};

async function route(request, url) {
  const path = url.pathname.replace(/^\/api\/v2/, '').replace(/^\/|\/$/g, '');
  const body = request.method === 'POST' ? await readBody(request) : {};
  if (path.startsWith('local/')) {
    const name = path.slice(6);
    if (request.method !== 'POST' || !Object.hasOwn(local, name)) throw new NotFound('expected POST /local/faucet or POST /local/time');
    if (!isJson(request)) throw new BadRequest('expected content-type application/json');
    return { ok: true, result: await local[name](body) };
  }
  if (path === 'jsonRPC') {
    const result = await api.call(String(body.method), body.params);
    return { ok: true, result, jsonrpc: '2.0', id: body.id ?? null };
  }
  return { ok: true, result: await api.call(path, { ...Object.fromEntries(url.searchParams), ...body }) };
}

// A web page cannot send this type to another origin without a preflight request, which is refused.
const isJson = (request) => (request.headers['content-type'] ?? '').startsWith('application/json');

function statusOf(error) {
  if (error instanceof BadRequest || error instanceof SyntaxError) return 422;
  if (error instanceof NotFound) return 404;
  if (error instanceof DiskFull) return 503;
  return 500;
}

function failure(error) {
  const reason = error instanceof Rejected ? `cannot apply external message: ${error.message}` : error.message;
  return { ok: false, error: reason, code: statusOf(error) };
}

async function answer(request, response) {
  let reply;
  try {
    reply = await route(request, new URL(request.url, 'http://chain'));
  } catch (error) {
    reply = failure(error);
  }
  const text = JSON.stringify(reply);
  response.writeHead(reply.code ?? 200, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'access-control-allow-origin': '*',
  });
  response.end(text);
}

const server = createServer({ keepAliveTimeout: 65_000 }, answer);
const ticker = setInterval(() => chain.tick(), BLOCK_MS);

function stop() {
  clearInterval(ticker);
  server.close();
  server.closeAllConnections();
  chain.ledger.close();
  process.exit(0);
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
if (options['parent-watch']) {
  process.stdin.on('end', stop);
  process.stdin.on('error', stop);
  process.stdin.resume();
}

const [, host, port] = options.listen.match(/^\[?(.*?)\]?:(\d+)$/) ?? [null, '127.0.0.1', options.listen];
server.on('error', (error) => {
  chain.ledger.close();
  giveUp(error);
});
server.listen(Number(port), host, () => {
  const bound = server.address();
  const name = bound.family === 'IPv6' ? `[${bound.address}]` : bound.address;
  console.log(JSON.stringify({ listening: `http://${name}:${bound.port}` }));
});
