import memcache

cache = memcache.Client(["@ENDPOINT@"])

cache.set("hello", "world", time=60)
print(cache.get("hello"))
