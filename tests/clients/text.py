"""emcache (text protocol, login as memcached -Y): use | find-nothing | be-refused."""

import asyncio
import sys

import emcache

what, endpoint, username, password, *sizes = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)


async def main():
    client = await emcache.create_client(
        [emcache.MemcachedHostAddress(host, int(port))], username=username, password=password, timeout=10.0
    )
    for size in map(int, sizes):
        key, value = b"text-%d" % size, (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        if what == "use":
            await client.set(key, value)
            assert (await client.get(key)).value == value, f"get of {size} bytes"
        else:
            assert await client.get(key) is None, f"{key} is there"
    if what == "use":
        await client.set(b"counter", b"1")
        assert await client.increment(b"counter", 2) == 3
        assert await client.decrement(b"counter", 1) == 2
        items = await client.get_many([b"text-1", b"text-100", b"missing"])
        assert sorted(items) == [b"text-1", b"text-100"]
        await client.delete(b"counter")
        assert await client.get(b"counter") is None
    await client.close()


async def be_refused():
    try:
        await asyncio.wait_for(main(), 5)
    except Exception:
        # emcache has no error of its own for it: whatever it is, nothing was read.
        return
    sys.exit("the token was accepted")


asyncio.run(be_refused() if what == "be-refused" else main())
