// Compiles one Tolk source: node compile.mjs <source> -> one line of JSON on stdout.
// Run with contracts/localnet installed; the compiler's version is pinned there.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const require = createRequire(new URL('./localnet/package.json', import.meta.url));
const { runTolkCompiler } = require('@ton/tolk-js');

const path = process.argv[2];
const source = readFileSync(path, 'utf8');
const name = basename(path);
const result = await runTolkCompiler({
  entrypointFileName: name,
  fsReadCallback: (wanted) => {
    if (wanted !== name) throw new Error(`unexpected import ${wanted}`);
    return source;
  },
});
if (result.status !== 'ok') {
  console.error(result.message);
  process.exit(3);
}
console.log(
  JSON.stringify({
    source: name,
    source_sha256: createHash('sha256').update(source).digest('hex'),
    compiler: `tolk ${result.tolkVersion}`,
    code_hash: result.codeHashHex.toLowerCase(),
    code_boc: result.codeBoc64,
  }),
);
