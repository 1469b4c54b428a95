const Memcached = require("memcached");

const cache = new Memcached("@ENDPOINT@");

cache.set("hello", "world", 60, (error) => {
  if (error) throw error;
  cache.get("hello", (error, value) => {
    if (error) throw error;
    console.log(value);
    cache.end();
  });
});
