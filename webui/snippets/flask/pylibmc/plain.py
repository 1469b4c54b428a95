from flask import Flask
from flask_caching import Cache

app = Flask(__name__)
cache = Cache(app, config={
    "CACHE_TYPE": "SASLMemcachedCache",
    "CACHE_MEMCACHED_SERVERS": ["@ENDPOINT@"],
    "CACHE_MEMCACHED_USERNAME": "@USERNAME@",
    "CACHE_MEMCACHED_PASSWORD": "@PASSWORD@",
})
