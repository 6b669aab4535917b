// @ton/ton against a toncenter-v2 endpoint: deploy, transfer, get method, history.
// node ton.mjs URL SEED RECEIVER VERSION -> one line of JSON
import { Address, SendMode } from '@ton/core';
import { keyPairFromSeed } from '@ton/crypto';
import { TonClient, WalletContractV4, WalletContractV5R1, internal } from '@ton/ton';

const [url, seed, receiver, version] = process.argv.slice(2);
const keys = keyPairFromSeed(Buffer.from(seed, 'hex'));
const kind = { v4r2: WalletContractV4, v5r1: WalletContractV5R1 }[version];
const client = new TonClient({ endpoint: `${url}/jsonRPC` });
const wallet = client.open(kind.create({ workchain: 0, publicKey: keys.publicKey }));
const to = Address.parse(receiver);

await wallet.sendTransfer({
  seqno: await wallet.getSeqno(),
  secretKey: keys.secretKey,
  sendMode: SendMode.PAY_GAS_SEPARATELY,
  messages: [internal({ to, value: 500_000_000n, bounce: false, body: 'hello' })],
});
const until = Date.now() + 15_000;
while ((await wallet.getSeqno()) === 0 && Date.now() < until) {
  await new Promise((resolve) => setTimeout(resolve, 100));
}
console.log(
  JSON.stringify({
    address: wallet.address.toRawString(),
    deployed: await client.isContractDeployed(wallet.address),
    received: Number(await client.getBalance(to)),
    seqno: (await client.runMethod(wallet.address, 'seqno')).stack.readNumber(),
    history: (await client.getTransactions(wallet.address, { limit: 5 })).length,
  }),
);
