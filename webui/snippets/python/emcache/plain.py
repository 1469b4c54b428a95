import asyncio

import emcache


async def main():
    cache = await emcache.create_client(
        [emcache.MemcachedHostAddress("@HOST@", @PORT@)],
        username="@USERNAME@",
        password="@PASSWORD@",
    )
    await cache.set(b"hello", b"world", exptime=60)
    print((await cache.get(b"hello")).value.decode())
    await cache.close()


asyncio.run(main())
