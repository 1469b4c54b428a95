import ssl

memgate_tls = ssl.create_default_context(cafile="@CA_FILE@")
memgate_tls.load_cert_chain("@CERTIFICATE_FILE@", "@KEY_FILE@")

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "@ENDPOINT@",
        "OPTIONS": {"tls_context": memgate_tls},
    }
}
