import asyncio

import emcache


async def main():
    cache = await emcache.create_client(
        [emcache.MemcachedHostAddress("@HOST@", @PORT@)],
        username="@USERNAME@",
        password="@PASSWORD@",
        ssl=True,
        ssl_extra_ca="@CA_FILE@",
    )
    await cache.set(b"hello", b"world", exptime=60)
    print((await cache.get(b"hello")).value.decode())
    await cache.close()


asyncio.run(main())
