const memjs = require("memjs");

const cache = memjs.Client.create("@ENDPOINT@", {
  username: "@USERNAME@",
  password: "@PASSWORD@",
});

(async () => {
  await cache.set("hello", "world", { expires: 60 });
  const { value } = await cache.get("hello");
  console.log(value.toString());
  cache.close();
})();
