import asyncio
import ssl

import aiomcache

tls = ssl.create_default_context(cafile="@CA_FILE@")
tls.load_cert_chain("@CERTIFICATE_FILE@", "@KEY_FILE@")


async def main():
    cache = aiomcache.Client("@HOST@", @PORT@, conn_args={"ssl": tls})
    await cache.set(b"hello", b"world", exptime=60)
    print((await cache.get(b"hello")).decode())
    await cache.close()


asyncio.run(main())
