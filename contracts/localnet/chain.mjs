// Accounts and messages: the real TVM (the executor of @ton/sandbox) over a Ledger.
//
// Invariants: messages run one after another; each batch, together with every internal
// message that it causes, ends in one sealed block before anybody is answered; time and
// logical time never go back.

import { createRequire } from 'node:module';
import { DiskFull, LT_STEP } from './ledger.mjs';

const require = createRequire(import.meta.url);
const core = require('@ton/core');
const { Executor, createEmptyShardAccount, defaultConfig } = require('@ton/sandbox');

const MAX_CASCADE = 1000; // transactions that one external message may cause
const FAUCET = core.Address.parseRaw('-1:' + '0'.repeat(64));
const SEED = Buffer.alloc(32);

export class Rejected extends Error {}

const shardAccountBoc = (account) =>
  core.beginCell().store(core.storeShardAccount(account)).endCell().toBoc().toString('base64');

export class Chain {
  static async open(ledger) {
    const chain = new Chain(ledger, await Executor.create());
    if (ledger.head.seqno === 0) chain.tick();
    return chain;
  }

  constructor(ledger, executor) {
    this.ledger = ledger;
    this.executor = executor;
    this.accounts = { ...(ledger.state?.accounts ?? {}) };
    this.lt = BigInt(ledger.state?.lt ?? 0);
    this.offset = ledger.state?.offset ?? 0;
    this.configBoc = defaultConfig;
    this.queue = [];
    this.running = false;
  }

  // Unix seconds on this chain.
  now() {
    return Math.max(Math.floor(Date.now() / 1000) + this.offset, this.ledger.head.utime);
  }

  tick() {
    if (this.running) return;
    try {
      this.ledger.heartbeat(this.now());
      this.told = false;
    } catch (error) {
      if (!(error instanceof DiskFull)) throw error;
      if (!this.told) console.error(`embedded chain: blocks are not written any more: ${error.message}`);
      this.told = true;
    }
  }

  account(address) {
    const boc = this.accounts[address.toRawString()];
    if (!boc) return createEmptyShardAccount(address);
    return core.loadShardAccount(core.Cell.fromBase64(boc).beginParse());
  }

  // Resolves when the message and all messages that it causes are on disk; rejects if it is refused.
  send(cell) {
    return this.#enqueue(() => this.#cascade(cell));
  }

  faucet(address, amount) {
    const info = {
      type: 'internal', ihrDisabled: true, bounce: false, bounced: false,
      src: FAUCET, dest: address, value: { coins: amount },
      ihrFee: 0n, forwardFee: 0n, createdLt: 0n, createdAt: this.now(),
    };
    return this.send(core.beginCell().store(core.storeMessage({ info, body: new core.Cell() })).endCell());
  }

  advance(seconds) {
    return this.#enqueue(async () => {
      this.offset += seconds;
      return [];
    });
  }

  async runGetMethod(address, methodId, stack) {
    const state = this.account(address).account?.storage;
    if (state?.state.type !== 'active') return null;
    const { code, data } = state.state.state;
    const { output } = await this.executor.runGetMethod({
      code, data, methodId, stack, address,
      config: this.configBoc,
      verbosity: 'short',
      unixTime: this.now(),
      balance: state.balance.coins,
      randomSeed: SEED,
      gasLimit: 1_000_000n,
      debugEnabled: false,
    });
    if (!output.success) throw new Error(output.error);
    return {
      gasUsed: Number(output.gas_used),
      exitCode: output.vm_exit_code,
      stack: core.parseTuple(core.Cell.fromBase64(output.stack)),
    };
  }

  #enqueue(work) {
    return new Promise((resolve, reject) => {
      this.queue.push({ work, resolve, reject });
      if (!this.running) {
        this.running = true;
        setImmediate(() => this.#drain());
      }
    });
  }

  async #drain() {
    while (this.queue.length > 0) {
      const batch = this.queue.splice(0);
      const done = [];
      const transactions = [];
      const before = { accounts: this.accounts, lt: this.lt, offset: this.offset };
      this.accounts = { ...this.accounts };
      this.utime = this.now();
      for (const item of batch) {
        try {
          const result = await item.work();
          transactions.push(...result);
          done.push(() => item.resolve(result));
        } catch (error) {
          done.push(() => item.reject(error));
        }
      }
      try {
        this.#seal(transactions);
      } catch (error) {
        Object.assign(this, before); // undo everything, as if no request had come
        for (const item of batch) item.reject(error);
        continue;
      }
      for (const answer of done) answer();
    }
    this.running = false;
  }

  #seal(transactions) {
    this.ledger.seal({
      utime: Math.max(this.utime, this.now()),
      lt: this.lt,
      offset: this.offset,
      accounts: this.accounts,
      transactions,
    });
  }

  // One message and, first in first out, every internal message it leads to.
  async #cascade(first) {
    const pending = [first];
    const entries = [];
    while (pending.length > 0 && entries.length < MAX_CASCADE) {
      const message = pending.shift();
      const run = await this.#transact(message).catch((error) => {
        if (entries.length === 0) throw error;
        return null; // a message that an account cannot process is lost, as on any chain
      });
      if (run === null) continue;
      const { address, boc } = run;
      const transaction = core.loadTransaction(core.Cell.fromBase64(boc).beginParse());
      entries.push(entryOf(address, transaction, boc));
      for (const out of transaction.outMessages.values())
        if (out.info.type === 'internal')
          pending.push(core.beginCell().store(core.storeMessage(out)).endCell());
    }
    return entries;
  }

  async #transact(message) {
    const { info } = core.loadMessage(message.beginParse());
    if (info.type === 'external-out') throw new Rejected('boc: expected a message to an account, got an external-out message');
    const address = info.dest;
    const key = address.toRawString();
    this.lt += LT_STEP;
    const { result } = await this.executor.runTransaction({
      config: this.configBoc,
      libs: null,
      verbosity: 'short',
      shardAccount: this.accounts[key] ?? shardAccountBoc(createEmptyShardAccount(address)),
      now: this.utime,
      lt: this.lt,
      randomSeed: SEED,
      ignoreChksig: false,
      debugEnabled: false,
      message,
    });
    if (!result.success) throw new Rejected(refusal(result));
    this.accounts[key] = result.shardAccount;
    return { address: key, boc: result.transaction };
  }
}

function refusal(result) {
  const code = result.vmResults?.vmExitCode;
  return code === undefined ? result.error : `${result.error}: exitcode=${code}`;
}

function entryOf(address, transaction, boc) {
  return {
    address,
    lt: transaction.lt.toString(),
    hash: transaction.hash().toString('hex'),
    utime: transaction.now,
    boc,
  };
}
