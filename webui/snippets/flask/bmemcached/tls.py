import ssl

import bmemcached
from flask import Flask
from flask_caching import Cache

app = Flask(__name__)
tls = ssl.create_default_context(cafile="@CA_FILE@")
cache = Cache(app, config={
    "CACHE_TYPE": "MemcachedCache",
    "CACHE_MEMCACHED_SERVERS": bmemcached.Client(
        "@ENDPOINT@", "@USERNAME@", "@PASSWORD@", tls_context=tls
    ),
})
