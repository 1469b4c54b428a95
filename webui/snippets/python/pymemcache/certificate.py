import ssl

from pymemcache.client.base import PooledClient

tls = ssl.create_default_context(cafile="@CA_FILE@")
tls.load_cert_chain("@CERTIFICATE_FILE@", "@KEY_FILE@")
cache = PooledClient(("@HOST@", @PORT@), tls_context=tls)

cache.set("hello", "world", expire=60, noreply=False)
print(cache.get("hello").decode())
