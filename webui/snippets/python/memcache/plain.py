from memcache import Memcache

cache = Memcache(("@HOST@", @PORT@), username="@USERNAME@", password="@PASSWORD@")

cache.set("hello", "world", expire=60)
print(cache.get("hello"))
