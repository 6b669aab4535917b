// The toncenter v2 methods over a Chain: names, shapes and number formats as there.

import { createRequire } from 'node:module';
import { fileHash } from './ledger.mjs';

const require = createRequire(import.meta.url);
const core = require('@ton/core');

const MASTERCHAIN = -1;
const SHARD = '-9223372036854775808';
const WALLETS = {
  feb5ff6820e2ff0d9483e7e0d62c817d846789fb4ae580c878866d959dabd5c0: 'wallet v4 r2',
  '20834b7b72b112147e1b2fb457b84e74d1a30f04f737d4f62a668e9552d2b72f': 'wallet v5 r1',
};

export class BadRequest extends Error {}
export class NotFound extends Error {}

const base64 = (bytes) => Buffer.from(bytes).toString('base64');
const bocOf = (cell) => (cell ? base64(cell.toBoc()) : '');

function address(text) {
  try {
    return core.Address.parse(text);
  } catch {
    throw new BadRequest(`address: expected a TON address, got ${JSON.stringify(text)}`);
  }
}

function integer(value, name) {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new BadRequest(`${name}: expected an integer, got ${JSON.stringify(text)}`);
  return number;
}

function cellOf(boc) {
  try {
    return core.Cell.fromBase64(boc);
  } catch {
    throw new BadRequest('boc: expected a base64 bag of cells');
  }
}

const blockId = (block) => ({
  '@type': 'ton.blockIdExt',
  workchain: MASTERCHAIN,
  shard: SHARD,
  seqno: block.seqno,
  root_hash: base64(block.rootHash),
  file_hash: base64(fileHash(block.rootHash)),
});

const transactionId = (lt, hash) => ({
  '@type': 'internal.transactionId',
  lt: lt.toString(),
  hash: base64(hash),
});

const extra = () => `${Date.now() / 1000}:0:0`;

export class Toncenter {
  constructor(chain) {
    this.chain = chain;
    this.methods = {
      getMasterchainInfo: () => this.masterchainInfo(),
      getConsensusBlock: () => this.consensusBlock(),
      getBlockHeader: (p) => this.blockHeader(p),
      lookupBlock: (p) => blockId(this.findBlock(p)),
      getAddressInformation: (p) => this.addressInformation(p),
      getAddressBalance: (p) => this.addressInformation(p).balance,
      getAddressState: (p) => this.addressInformation(p).state,
      getWalletInformation: (p) => this.walletInformation(p),
      getTransactions: (p) => this.transactions(p),
      runGetMethod: (p) => this.runGetMethod(p),
      sendBoc: async (p) => (await this.send(p), { '@type': 'ok', '@extra': extra() }),
      sendBocReturnHash: (p) => this.send(p),
      getConfigAll: () => this.config(core.Cell.fromBase64(this.chain.configBoc)),
      getConfigParam: (p) => this.config(this.configParam(p)),
    };
  }

  call(method, parameters) {
    if (!Object.hasOwn(this.methods, method)) throw new NotFound(`method: this chain has no method ${method}`);
    return this.methods[method](parameters ?? {});
  }

  masterchainInfo() {
    const { head } = this.chain.ledger;
    return {
      '@type': 'blocks.masterchainInfo',
      last: blockId(head),
      state_root_hash: base64(head.digest),
      init: blockId(this.chain.ledger.block(1)),
      '@extra': extra(),
    };
  }

  consensusBlock() {
    const { seqno, utime } = this.chain.ledger.head;
    return { consensus_block: seqno, timestamp: utime };
  }

  blockHeader(p) {
    const block = this.findBlock(p);
    const times = this.chain.ledger.logicalTimes(block.seqno);
    return {
      '@type': 'blocks.header',
      id: blockId(block),
      global_id: -217,
      version: 0,
      flags: 0,
      after_merge: false, after_split: false, before_split: false,
      want_merge: false, want_split: false,
      validator_list_hash_short: 0, // there are no validators, and so no key blocks
      catchain_seqno: 0,
      min_ref_mc_seqno: block.seqno - 1,
      is_key_block: false,
      prev_key_block_seqno: 0,
      start_lt: times.start.toString(),
      end_lt: times.end.toString(),
      gen_utime: block.utime,
      vert_seqno: 0,
      prev_blocks: block.seqno > 1 ? [blockId(this.chain.ledger.block(block.seqno - 1))] : [],
      '@extra': extra(),
    };
  }

  findBlock(p) {
    if (integer(p.workchain ?? MASTERCHAIN, 'workchain') !== MASTERCHAIN)
      throw new NotFound('block: this chain has masterchain blocks only');
    const { ledger } = this.chain;
    const block =
      p.seqno === undefined
        ? ledger.blockAt(integer(p.unixtime, 'seqno or unixtime'))
        : ledger.block(integer(p.seqno, 'seqno'));
    if (!block) throw new NotFound('block: not found on this chain');
    return block;
  }

  addressInformation(p) {
    const found = this.chain.account(address(p.address));
    const storage = found.account?.storage;
    const active = storage?.state.type === 'active' ? storage.state.state : null;
    const hash = found.lastTransactionHash.toString(16).padStart(64, '0');
    const { head } = this.chain.ledger;
    return {
      '@type': 'raw.fullAccountState',
      balance: (storage?.balance.coins ?? 0n).toString(),
      extra_currencies: [],
      code: bocOf(active?.code),
      data: bocOf(active?.data),
      last_transaction_id: transactionId(found.lastTransactionLt, Buffer.from(hash, 'hex')),
      block_id: blockId(head),
      frozen_hash: storage?.state.type === 'frozen' ? storage.state.stateHash.toString(16) : '',
      sync_utime: head.utime,
      '@extra': extra(),
      state: active ? 'active' : storage?.state.type === 'frozen' ? 'frozen' : 'uninitialized',
    };
  }

  async walletInformation(p) {
    const raw = this.addressInformation(p);
    const found = this.chain.account(address(p.address)).account?.storage.state;
    const code = found?.type === 'active' ? found.state.code?.hash().toString('hex') : undefined;
    const answer = {
      wallet: code in WALLETS,
      balance: raw.balance,
      account_state: raw.state,
      last_transaction_id: raw.last_transaction_id,
    };
    if (!answer.wallet) return answer;
    const run = await this.chain.runGetMethod(address(p.address), methodId('seqno'), []);
    return { ...answer, wallet_type: WALLETS[code], seqno: Number(run.stack[0].value) };
  }

  transactions(p) {
    const history = this.chain.ledger.history.get(address(p.address).toRawString()) ?? [];
    const limit = Math.min(integer(p.limit ?? 10, 'limit'), 1000);
    const from = p.lt === undefined ? null : BigInt(p.lt);
    const to = BigInt(p.to_lt ?? 0);
    const wanted = history.filter(
      (entry) => (from === null || BigInt(entry.lt) <= from) && BigInt(entry.lt) > to,
    );
    return wanted.slice(-limit).reverse().map(extTransaction);
  }

  async runGetMethod(p) {
    const target = address(p.address);
    const method = typeof p.method === 'number' ? p.method : methodId(String(p.method));
    const run = await this.chain.runGetMethod(target, method, (p.stack ?? []).map(stackIn));
    const raw = this.addressInformation(p);
    return {
      '@type': 'smc.runResult',
      gas_used: run?.gasUsed ?? 0,
      stack: run?.stack.map(stackOut) ?? [],
      exit_code: run?.exitCode ?? -13, // as liteservers answer for an account without code
      block_id: raw.block_id,
      last_transaction_id: raw.last_transaction_id,
      '@extra': extra(),
    };
  }

  async send(p) {
    const cell = cellOf(p.boc);
    await this.chain.send(externalOnly(cell));
    return { '@type': 'raw.extMessageInfo', hash: base64(cell.hash()), '@extra': extra() };
  }

  configParam(p) {
    const id = integer(p.config_id ?? p.param, 'config_id');
    const all = core.Cell.fromBase64(this.chain.configBoc).beginParse();
    const values = all.loadDictDirect(core.Dictionary.Keys.Int(32), core.Dictionary.Values.Cell());
    if (!values.has(id)) throw new NotFound(`config: there is no parameter ${id}`);
    return values.get(id);
  }

  config(cell) {
    return {
      '@type': 'configInfo',
      config: { '@type': 'tvm.cell', bytes: bocOf(cell) },
      '@extra': extra(),
    };
  }
}

function externalOnly(cell) {
  let type;
  try {
    type = core.loadMessage(cell.beginParse()).info.type;
  } catch {
    throw new BadRequest('boc: expected a message, got another cell');
  }
  if (type !== 'external-in') throw new BadRequest(`boc: expected an external message, got ${type}`);
  return cell;
}

const methodId = (name) => (core.crc16(Buffer.from(name)).readUInt16BE(0)) | 0x10000;

function extTransaction(entry) {
  const transaction = core.loadTransaction(core.Cell.fromBase64(entry.boc).beginParse());
  const storageFee = transaction.description.storagePhase?.storageFeesCollected ?? 0n;
  const fee = transaction.totalFees.coins;
  return {
    '@type': 'ext.transaction',
    address: {
      '@type': 'accountAddress',
      account_address: core.Address.parseRaw(entry.address).toString(),
    },
    account: entry.address.toUpperCase(),
    utime: transaction.now,
    data: entry.boc,
    transaction_id: transactionId(transaction.lt, Buffer.from(entry.hash, 'hex')),
    fee: fee.toString(),
    storage_fee: storageFee.toString(),
    other_fee: (fee - storageFee).toString(),
    in_msg: transaction.inMessage ? extMessage(transaction.inMessage) : null,
    out_msgs: [...transaction.outMessages.values()].map(extMessage),
  };
}

// By the wallets' convention, text after 32 zero bits is a comment. Anything else, and text that is
// not UTF-8, is raw.
function comment(body) {
  const slice = body.beginParse(true);
  if (slice.remainingBits < 32 || slice.loadUint(32) !== 0) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(snake(slice));
  } catch {
    return null;
  }
}

// The bytes of a chain of cells. Throws where a cell holds no whole bytes.
function snake(slice) {
  const parts = [];
  for (let rest = slice; ; rest = rest.loadRef().beginParse(true)) {
    if (rest.remainingBits % 8 !== 0 || rest.remainingRefs > 1) throw new Error('no text');
    parts.push(rest.loadBuffer(rest.remainingBits / 8));
    if (rest.remainingRefs === 0) return Buffer.concat(parts);
  }
}

// As Python's codec writes it: lines of 76 characters, each ended.
const lines = (bytes) => base64(bytes).replace(/.{1,76}/g, '$&\n');

function rootBytes(cell) {
  const padded = core.beginCell().storeBits(cell.bits);
  while (padded.bits % 8 !== 0) padded.storeBit(0);
  return padded.endCell().beginParse(true).loadBuffer(padded.bits / 8);
}

function content(message) {
  const text = comment(message.body);
  if (text !== null)
    return { msg_data: { '@type': 'msg.dataText', text: base64(text) }, message: text };
  const msg_data = {
    '@type': 'msg.dataRaw',
    body: bocOf(message.body),
    init_state: initBoc(message.init),
  };
  return { msg_data, message: lines(rootBytes(message.body)) };
}

function extMessage(message) {
  const { info, body } = message;
  const internal = info.type === 'internal';
  return {
    '@type': 'ext.message',
    hash: base64(core.beginCell().store(core.storeMessage(message)).endCell().hash()),
    source: info.src?.toString() ?? '',
    destination: info.dest?.toString() ?? '',
    value: internal ? info.value.coins.toString() : '0',
    extra_currencies: [],
    fwd_fee: internal ? info.forwardFee.toString() : '0',
    ihr_fee: internal ? info.ihrFee.toString() : '0',
    created_lt: (info.createdLt ?? 0n).toString(),
    body_hash: base64(body.hash()),
    ...content(message),
  };
}

const initBoc = (init) =>
  init ? bocOf(core.beginCell().store(core.storeStateInit(init)).endCell()) : '';

function stackIn([type, value]) {
  if (type === 'num' || type === 'int') return { type: 'int', value: bigintOf(value) };
  if (type === 'tvm.Cell' || type === 'cell') return { type: 'cell', cell: cellOf(value) };
  if (type === 'tvm.Slice' || type === 'slice') return { type: 'slice', cell: cellOf(value) };
  throw new BadRequest(`stack: expected an entry of a known type, got ${type}`);
}

function bigintOf(value) {
  const text = String(value);
  return text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text);
}

function stackOut(item) {
  switch (item.type) {
    case 'int':
      return ['num', (item.value < 0n ? '-0x' : '0x') + (item.value < 0n ? -item.value : item.value).toString(16)];
    case 'nan':
      return ['num', 'NaN'];
    case 'null':
      return ['list', { '@type': 'tvm.list', elements: [] }];
    case 'tuple':
      return ['tuple', { '@type': 'tvm.tuple', elements: item.items.map(stackOut) }];
    default:
      return [item.type, { bytes: bocOf(item.cell) }];
  }
}

