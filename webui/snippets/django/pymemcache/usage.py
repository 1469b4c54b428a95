from django.core.cache import cache

cache.set("hello", "world", timeout=60)
print(cache.get("hello"))
