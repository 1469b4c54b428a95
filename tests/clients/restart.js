// The same as restart.py, for memjs: ENDPOINT USERNAME PASSWORD.
"use strict";

const assert = require("node:assert/strict");
const readline = require("node:readline");
const memjs = require("memjs");

const [, endpoint, username, password] = process.argv.slice(2);
const MILLISECONDS = 4000;

async function main() {
  // Its own time limit is half a second, less than a container takes.
  const options = { username, password, timeout: 2, conntimeout: 2, retries: 0, logger: { log() {} } };
  const client = memjs.Client.create(endpoint, options);
  const [key, value] = ["key-memjs", Buffer.from("a value")];
  assert.equal(await client.set(key, value, {}), true);
  console.log("ready");
  await new Promise((resolve) => readline.createInterface({ input: process.stdin }).once("line", resolve));
  let [longest, lost] = [0, 0];
  for (const end = Date.now() + MILLISECONDS; Date.now() < end; ) {
    const begun = Date.now();
    const found = (await client.get(key)).value;
    if (found === null) {
      lost += 1;
      assert.equal(await client.set(key, value, {}), true);
    } else {
      assert.deepEqual(found, value);
    }
    longest = Math.max(longest, Date.now() - begun);
  }
  assert.deepEqual((await client.get(key)).value, value);
  console.log(`lost ${lost} longest ${longest / 1000}`);
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
