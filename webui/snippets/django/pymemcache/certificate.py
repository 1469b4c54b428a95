import ssl

memgate_tls = ssl.create_default_context(cafile=BASE_DIR / "@CA_FILE@")
memgate_tls.load_cert_chain(BASE_DIR / "@CERTIFICATE_FILE@", BASE_DIR / "@KEY_FILE@")

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "@ENDPOINT@",
        "OPTIONS": {"tls_context": memgate_tls},
    }
}
