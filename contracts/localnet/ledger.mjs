// The files of the embedded chain, in one directory:
//
//   state.json           accounts and the block they were sealed in; replaced by rename
//   blocks.bin           synthetic masterchain blocks, 72 bytes each: u64 time, root hash,
//                        state digest; the n-th record is block n (from 1)
//   transactions.jsonl   one transaction a line, append only
//   lock                 process id of the server that has the directory open
//
// Invariant: state.json is renamed into place before its block is appended, so after a
// crash at most the one block that state.json itself describes is missing and is re-made;
// transactions later than state.json's logical time are dropped. An answered message is
// on disk. If the disk is full, the work is undone and its message is refused. At most the record of
// one block whose state is on disk waits in memory, and no later block is sealed before it is written.

import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';

const RECORD = 72;
export const LT_STEP = 1_000_000n; // from one transaction to the next
const DOMAIN = Buffer.from('umay/localnet/block/v1\0');

export const sha256 = (...parts) => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};

// The disk is full. Nothing of the request has happened.
export class DiskFull extends Error {}

// A write to a nearly full disk may write only a part, without an error.
function writeAll(file, text) {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(file, bytes, at);
}

function orFull(place, work, undo) {
  try {
    return work();
  } catch (error) {
    undo();
    throw new DiskFull(`${place}: the disk did not take the data (${error.code ?? error.message}); nothing was kept`);
  }
}

const u64 = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

export const blockHash = (previous, seqno, utime, digest) =>
  sha256(DOMAIN, previous, u64(seqno), u64(utime), digest);

export const fileHash = (rootHash) => sha256('umay/localnet/file/v1\0', rootHash);

export class Ledger {
  static open(directory) {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    return new Ledger(directory);
  }

  constructor(directory) {
    this.path = (name) => join(directory, name);
    this.#lock();
    this.blocks = fs.openSync(this.path('blocks.bin'), 'a+');
    this.state = this.#readState();
    this.head = this.#recoverHead();
    this.spans = []; // logical times of the blocks that have transactions, in order
    this.history = this.#readHistory();
    this.transactions = fs.openSync(this.path('transactions.jsonl'), 'a');
  }

  // The block of this number, or null. Block 0 does not exist.
  block(seqno) {
    if (!Number.isSafeInteger(seqno) || seqno < 1 || seqno > this.head.seqno) return null;
    const record = Buffer.alloc(RECORD);
    if (seqno === this.waiting?.seqno) recordOf(this.waiting).copy(record);
    else fs.readSync(this.blocks, record, 0, RECORD, (seqno - 1) * RECORD);
    return {
      seqno,
      utime: Number(record.readBigUInt64BE(0)),
      rootHash: record.subarray(8, 40),
      digest: record.subarray(40),
    };
  }

  // The last block not later than this time, or null.
  blockAt(utime) {
    let [low, high] = [0, this.head.seqno];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.block(middle).utime <= utime) low = middle;
      else high = middle - 1;
    }
    return this.block(low);
  }

  // The first logical time of a block and the end of its last one. For a block without transactions
  // both are the end of the blocks before it.
  logicalTimes(seqno) {
    let [low, high] = [0, this.spans.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.spans[middle].seqno <= seqno) low = middle + 1;
      else high = middle;
    }
    const last = this.spans[low - 1];
    if (!last) return { start: 0n, end: 0n };
    return last.seqno === seqno ? last : { start: last.end, end: last.end };
  }

  // A block in which nothing happened.
  heartbeat(utime) {
    this.#settle();
    this.#append(this.#next(utime, this.head.digest));
    this.#settle();
  }

  // A block with new account states: durable when this returns.
  seal({ utime, lt, offset, accounts, transactions }) {
    this.#settle();
    const digest = sha256(JSON.stringify(accounts));
    const head = this.#next(utime, digest);
    const entries = transactions.map((line) => ({ ...line, seqno: head.seqno }));
    const kept = fs.fstatSync(this.transactions).size;
    const undo = () => fs.ftruncateSync(this.transactions, kept);
    orFull(this.path('transactions.jsonl'), () => {
      writeAll(this.transactions, entries.map((entry) => JSON.stringify(entry) + '\n').join(''));
      fs.fdatasyncSync(this.transactions);
      fs.fdatasyncSync(this.blocks);
    }, undo);
    orFull(this.path('state.json'), () => this.#writeState({
      version: 1,
      head: { seqno: head.seqno, utime, rootHash: head.rootHash.toString('hex') },
      digest: digest.toString('hex'),
      lt: lt.toString(),
      offset,
      accounts,
    }), undo);
    for (const entry of entries) this.#remember(this.history, entry);
    this.#append(head);
    try {
      this.#settle();
    } catch {
      // its state is on disk, and the record is made again from it
    }
  }

  close() {
    fs.fsyncSync(this.blocks);
    fs.closeSync(this.blocks);
    fs.closeSync(this.transactions);
    fs.rmSync(this.path('lock'), { force: true });
  }

  #next(utime, digest) {
    const seqno = this.head.seqno + 1;
    const time = Math.max(utime, this.head.utime);
    const rootHash = blockHash(this.head.rootHash, seqno, time, digest);
    return { seqno, utime: time, rootHash, digest };
  }

  #append(block) {
    this.head = this.waiting = block;
  }

  // Writes the waiting record, if there is one, to disk. Throws DiskFull.
  #settle() {
    if (!this.waiting) return;
    const before = (this.waiting.seqno - 1) * RECORD;
    orFull(
      this.path('blocks.bin'),
      () => writeAll(this.blocks, recordOf(this.waiting)),
      () => fs.ftruncateSync(this.blocks, before),
    );
    this.waiting = null;
  }

  #writeState(state) {
    const temporary = this.path('state.json.tmp');
    const file = fs.openSync(temporary, 'w', 0o600);
    try {
      writeAll(file, JSON.stringify(state));
      fs.fdatasyncSync(file);
    } finally {
      fs.closeSync(file);
    }
    fs.renameSync(temporary, this.path('state.json'));
  }

  #readState() {
    if (!fs.existsSync(this.path('state.json'))) return null;
    const state = JSON.parse(fs.readFileSync(this.path('state.json'), 'utf8'));
    if (state.version !== 1) throw new Error(`${this.path('state.json')}: expected version 1, got ${state.version}`);
    return state;
  }

  #recoverHead() {
    const count = Math.floor(fs.fstatSync(this.blocks).size / RECORD);
    fs.ftruncateSync(this.blocks, count * RECORD);
    this.head = { seqno: count, utime: 0, rootHash: Buffer.alloc(32), digest: Buffer.alloc(32) };
    if (count > 0) this.head = this.block(count);
    const sealed = this.state?.head;
    if (sealed && sealed.seqno === count + 1) {
      this.#append({
        ...sealed,
        rootHash: Buffer.from(sealed.rootHash, 'hex'),
        digest: Buffer.from(this.state.digest, 'hex'),
      });
      this.#settle();
    }
    const kept = sealed ? this.block(sealed.seqno)?.rootHash.toString('hex') : undefined;
    if (kept !== sealed?.rootHash) throw new Error(`${this.path('blocks.bin')}: expected the block that state.json names, got another; are the files of one chain?`);
    return this.head;
  }

  #readHistory() {
    const history = new Map();
    const path = this.path('transactions.jsonl');
    if (!fs.existsSync(path)) return history;
    const lines = [];
    for (const line of fs.readFileSync(path, 'utf8').split('\n')) {
      const entry = parseLine(line);
      if (entry && this.state && BigInt(entry.lt) <= BigInt(this.state.lt)) {
        lines.push(line);
        this.#remember(history, entry);
      }
    }
    const whole = lines.map((line) => line + '\n').join('');
    if (whole !== fs.readFileSync(path, 'utf8')) {
      fs.writeFileSync(`${path}.tmp`, whole);
      fs.renameSync(`${path}.tmp`, path);
    }
    return history;
  }

  #remember(history, entry) {
    const [lt, last] = [BigInt(entry.lt), this.spans.at(-1)];
    if (last?.seqno === entry.seqno) last.end = lt + LT_STEP;
    else this.spans.push({ seqno: entry.seqno, start: lt, end: lt + LT_STEP });
    if (!history.has(entry.address)) history.set(entry.address, []);
    history.get(entry.address).push(entry);
  }

  #lock() {
    const path = this.path('lock');
    const owner = fs.existsSync(path) ? Number(fs.readFileSync(path, 'utf8')) : 0;
    if (owner && owner !== process.pid && alive(owner))
      throw new Error(`${path}: process ${owner} has this directory open; stop it, or use another --dir`);
    fs.writeFileSync(path, String(process.pid));
  }
}

const recordOf = (block) => Buffer.concat([u64(block.utime), block.rootHash, block.digest]);

function parseLine(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null; // the last line of a crashed server
  }
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}
