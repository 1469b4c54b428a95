CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyLibMCCache",
        "LOCATION": "@ENDPOINT@",
        "OPTIONS": {"binary": True, "username": "@USERNAME@", "password": "@PASSWORD@"},
    }
}
