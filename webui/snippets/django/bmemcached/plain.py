CACHES = {
    "default": {
        "BACKEND": "django_bmemcached.memcached.BMemcached",
        "LOCATION": "@ENDPOINT@",
        "OPTIONS": {"username": "@USERNAME@", "password": "@PASSWORD@"},
    }
}
