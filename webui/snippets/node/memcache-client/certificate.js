const fs = require("node:fs");
const { MemcacheClient } = require("memcache-client");

const cache = new MemcacheClient({
  server: "@ENDPOINT@",
  tls: {
    ca: fs.readFileSync("@CA_FILE@"),
    cert: fs.readFileSync("@CERTIFICATE_FILE@"),
    key: fs.readFileSync("@KEY_FILE@"),
  },
});

(async () => {
  await cache.set("hello", "world", { lifetime: 60 });
  const { value } = await cache.get("hello");
  console.log(value);
  cache.shutdown();
})();
