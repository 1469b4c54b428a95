// memjs (binary protocol, SASL PLAIN): use | miss | denied.
"use strict";

const assert = require("node:assert/strict");
const memjs = require("memjs");

const [scenario, endpoint, username, password, ...sizes] = process.argv.slice(2);
const silent = { log() {} };

function connect() {
  return memjs.Client.create(endpoint, { username, password, timeout: 10, retries: 0, logger: silent });
}

// The operations that memjs has no promises for.
function called(operation, ...before) {
  return new Promise((resolve, reject) => {
    operation(...before, (error, server, result) => (error ? reject(error) : resolve(result)));
  });
}

async function everyOperation(client) {
  await client.flush();
  assert.deepEqual(await client.get("a"), { value: null, flags: null });
  assert.equal(await client.set("a", "1", { expires: 1000 }), true);
  assert.equal((await client.get("a")).value.toString(), "1");
  await client.set("with space\r\n", Buffer.from([0, 13, 10, 255]));
  assert.deepEqual((await client.get("with space\r\n")).value, Buffer.from([0, 13, 10, 255]));
  assert.equal(await client.add("a", "2"), false);
  assert.equal(await client.add("b", "2"), true);
  assert.equal(await client.replace("c", "3"), false);
  assert.equal(await client.replace("b", "3"), true);
  assert.equal(await client.append("b", "4"), true);
  // memjs 1.3.2 sends an append for it too.
  assert.equal(await client.prepend("b", "2"), true);
  assert.equal((await client.get("b")).value.toString(), "342");
  await assert.rejects(client.append("c", "4"), /Item not stored/);
  await assert.rejects(client.prepend("c", "4"), /Item not stored/);
  assert.equal(await client.touch("b", 1000), true);
  assert.equal(await client.touch("c", 1000), false);
  assert.deepEqual(await client.increment("n", 5, { initial: 7 }), { success: true, value: 7 });
  assert.deepEqual(await client.increment("n", 5, {}), { success: true, value: 12 });
  assert.deepEqual(await client.decrement("n", 2, {}), { success: true, value: 10 });
  await assert.rejects(client.increment("with space\r\n", 1, {}));
  assert.equal(await client.delete("b"), true);
  assert.equal(await client.delete("b"), false);
  const keys = Array.from({ length: 100 }, (_, n) => `at-once-${n}`);
  await Promise.all(keys.map((key) => client.set(key, key, {})));
  const found = await Promise.all(keys.map((key) => client.get(key)));
  assert.deepEqual(found.map(({ value }) => value.toString()), keys);
  const statistics = await called(client.stats.bind(client));
  assert.ok(Number(statistics.curr_items) > 100);
  assert.ok((await called(client.statsWithKey.bind(client), "settings")).maxconns);
  await assert.rejects(called(client.resetStats.bind(client)), "it reached beyond the caller's own data");
}

async function values(client) {
  for (const size of sizes.map(Number)) {
    const key = `secret-key-memjs-${size}`;
    const value = Buffer.alloc(size, "\0\r\nEND\r\n");
    if (scenario === "use") {
      await client.set(key, value, {});
      assert.ok((await client.get(key)).value.equals(value), `get of ${size} bytes`);
    } else {
      assert.equal((await client.get(key)).value, null, `${key} is there`);
    }
  }
}

async function main() {
  const client = connect();
  if (scenario === "use") {
    await everyOperation(client);
    client.quit();
  }
  const another = connect();
  await values(another);
  another.close();
}

main().then(
  () => process.exit(scenario === "denied" ? 1 : 0),
  (error) => {
    if (scenario !== "denied") {
      console.error(error);
    }
    process.exit(scenario === "denied" ? 0 : 1);
  },
);
