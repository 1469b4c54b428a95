import bmemcached
from flask import Flask
from flask_caching import Cache

app = Flask(__name__)
cache = Cache(app, config={
    "CACHE_TYPE": "MemcachedCache",
    "CACHE_MEMCACHED_SERVERS": bmemcached.Client("@ENDPOINT@", "@USERNAME@", "@PASSWORD@"),
})
