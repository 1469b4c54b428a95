// The same as operations.py, for memjs: ENDPOINT USERNAME PASSWORD SECONDS.
"use strict";

const assert = require("node:assert/strict");
const readline = require("node:readline");
const { setTimeout: pause } = require("node:timers/promises");
const memjs = require("memjs");

const [endpoint, username, password, seconds] = process.argv.slice(2);
const ITEMS = 200;
const SIZE = 4000;
const SET_EVERY = 5;
const REQUESTS_MIN = 50;
const PACE_MILLISECONDS = 1;

const warnings = [];
const logger = { log: (...texts) => warnings.push(texts.join(" ")) };
const limits = { timeout: Number(seconds), conntimeout: Number(seconds), retries: 0 };
const client = memjs.Client.create(endpoint, { username, password, logger, ...limits });
// The version of each item; one whose set has failed has none.
const versions = new Map();
let version = 0;
let seen;

function value(number) {
  const text = `item ${number} of memjs, version ${versions.get(number)}. `;
  return Buffer.from(text.repeat(SIZE / text.length + 1).slice(0, SIZE));
}

// The reply, or undefined after an error, which is noted.
async function request(number, call) {
  const started = Date.now();
  try {
    return await call(`memjs-${number}`);
  } catch (error) {
    versions.delete(number);
    seen.errors.push(String(error));
  } finally {
    seen.longest_ms = Math.max(seen.longest_ms, Date.now() - started);
    seen.requests += 1;
  }
}

async function store(number) {
  versions.set(number, ++version);
  const stored = await request(number, (key) => client.set(key, value(number), {}));
  if (stored === false) {
    versions.delete(number);
    seen.errors.push("not stored");
  }
}

async function check(number) {
  if (!versions.has(number)) {
    return store(number);
  }
  const expected = value(number);
  const found = await request(number, (key) => client.get(key));
  if (found?.value === null) {
    seen.lost += 1;
    await store(number);
  } else if (found !== undefined && !expected.equals(found.value)) {
    seen.wrong += 1;
  }
}

async function use(commands, onlyReads) {
  for (let turn = 0; commands.length === 0 || turn < REQUESTS_MIN; turn += 1) {
    if (turn % SET_EVERY === 0 && !onlyReads) {
      await store(Math.floor(turn / SET_EVERY) % ITEMS);
    } else {
      await check(turn % ITEMS);
    }
    if (turn === 0) {
      console.log("begun");
    }
    await pause(PACE_MILLISECONDS);
  }
  assert.equal(commands.shift(), "stop");
  const { requests } = seen;
  for (let number = 0; number < ITEMS; number += 1) {
    await check(number);
  }
  seen.requests = requests;
}

function restart() {
  seen = { requests: 0, lost: 0, wrong: 0, longest_ms: 0, errors: [] };
  warnings.length = 0;
}

async function main() {
  const commands = [];
  let wake = () => {};
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (line) => wake(commands.push(line)));
  lines.on("close", () => wake(commands.push("end")));
  restart();
  for (let number = 0; number < ITEMS; number += 1) {
    await store(number);
  }
  assert.equal(seen.errors[0], undefined);
  console.log("ready");
  for (;;) {
    while (commands.length === 0) {
      await new Promise((resolve) => (wake = resolve));
    }
    const command = commands.shift();
    if (command === "end") {
      return;
    }
    restart();
    await use(commands, command === "read");
    const errors = [...seen.errors, ...warnings];
    console.log(JSON.stringify({ ...seen, errors: errors.length, error: errors[0] ?? "" }));
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
