import pylibmc

cache = pylibmc.Client(["@ENDPOINT@"], binary=True, username="@USERNAME@", password="@PASSWORD@")

cache.set("hello", "world", time=60)
print(cache.get("hello"))
