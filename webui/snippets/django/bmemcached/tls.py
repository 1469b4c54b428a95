import ssl

CACHES = {
    "default": {
        "BACKEND": "django_bmemcached.memcached.BMemcached",
        "LOCATION": "@ENDPOINT@",
        "OPTIONS": {
            "username": "@USERNAME@",
            "password": "@PASSWORD@",
            "tls_context": ssl.create_default_context(cafile=BASE_DIR / "@CA_FILE@"),
        },
    }
}
