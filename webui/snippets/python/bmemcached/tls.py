import ssl

import bmemcached

tls = ssl.create_default_context(cafile="@CA_FILE@")
cache = bmemcached.Client("@ENDPOINT@", "@USERNAME@", "@PASSWORD@", tls_context=tls)

cache.set("hello", "world", time=60)
print(cache.get("hello"))
