import bmemcached

cache = bmemcached.Client("@ENDPOINT@", "@USERNAME@", "@PASSWORD@")

cache.set("hello", "world", time=60)
print(cache.get("hello"))
