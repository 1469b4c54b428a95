"""emcache (text protocol, login as memcached -Y): use | miss | denied."""

import asyncio
import os
import sys

import emcache

scenario, endpoint, username, password, *sizes = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)
node = emcache.MemcachedHostAddress(host, int(port))


# With a certificate authority all goes over TLS.
ca = os.environ.get("CA")


def connect(**options):
    if ca:
        options |= {"ssl": True, "ssl_extra_ca": ca}
    return emcache.create_client([node], username=username, password=password, timeout=10.0, **options)


async def fails(error, call):
    try:
        await call
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


async def every_operation(client):
    await client.flush_all(node)
    assert await client.get(b"a") is None and await client.gets(b"a") is None
    await client.set(b"a", b"1", flags=5)
    item = await client.get(b"a", return_flags=True)
    assert (item.value, item.flags, item.cas) == (b"1", 5, None)
    item = await client.gets(b"a", return_flags=True)
    assert (item.value, item.flags) == (b"1", 5) and item.cas is not None
    await client.cas(b"a", b"2", item.cas)
    await fails(emcache.NotStoredStorageCommandError, client.cas(b"a", b"3", item.cas))
    await fails(emcache.NotStoredStorageCommandError, client.add(b"a", b"3"))
    await client.add(b"b", b"3", exptime=1000)
    await fails(emcache.NotStoredStorageCommandError, client.replace(b"c", b"3"))
    await client.replace(b"b", b"4")
    await client.append(b"b", b"5")
    await client.prepend(b"b", b"3")
    assert (await client.get(b"b")).value == b"345"
    await fails(emcache.NotStoredStorageCommandError, client.append(b"c", b"3"))
    await fails(emcache.NotStoredStorageCommandError, client.prepend(b"c", b"3"))
    items = await client.get_many([b"a", b"missing", b"b"])
    assert {key: item.value for key, item in items.items()} == {b"a": b"2", b"b": b"345"}
    items = await client.gets_many([b"a", b"b", b"missing"], return_flags=True)
    assert items[b"a"].cas != items[b"b"].cas and items[b"b"].flags == 0
    await client.touch(b"a", 1000)
    await fails(emcache.NotFoundCommandError, client.touch(b"missing", 1000))
    assert (await client.gat(1000, b"a")).value == b"2" and await client.gat(1000, b"missing") is None
    assert (await client.gats(1000, b"a", return_flags=True)).cas == items[b"a"].cas
    assert sorted(await client.gat_many(1000, [b"a", b"b", b"missing"])) == [b"a", b"b"]
    assert (await client.gats_many(1000, [b"a", b"b"]))[b"b"].cas == items[b"b"].cas
    await client.set(b"counter", b"1")
    assert await client.increment(b"counter", 2) == 3 and await client.decrement(b"counter", 1) == 2
    await fails(emcache.NotFoundCommandError, client.increment(b"missing", 1))
    await client.delete(b"counter")
    await fails(emcache.NotFoundCommandError, client.delete(b"counter"))
    assert (await client.version(node)).startswith("1.")
    assert int((await client.stats(node))["curr_items"]) > 0
    assert "maxconns" in await client.stats(node, "settings")
    await client.verbosity(node, 1)
    await fails(emcache.CommandError, client.cache_memlimit(node, 1))
    await client.flush_all(node, 1000)
    assert (await client.get(b"a")).value == b"2", "flushed before its time"


async def silent_operations(client):
    """On one connection, so that each is done before the next."""
    await client.set(b"a", b"1", noreply=True)
    await client.add(b"a", b"2", noreply=True)
    await client.replace(b"a", b"3", noreply=True)
    await client.append(b"a", b"4", noreply=True)
    await client.prepend(b"a", b"2", noreply=True)
    assert (await client.get(b"a")).value == b"234"
    await client.increment(b"a", 1, noreply=True)
    await client.decrement(b"a", 2, noreply=True)
    await client.touch(b"a", 1000, noreply=True)
    item = await client.gets(b"a")
    assert item.value == b"233"
    await client.cas(b"a", b"5", item.cas, noreply=True)
    assert (await client.get(b"a")).value == b"5"
    await client.verbosity(node, 1, noreply=True)
    await client.delete(b"a", noreply=True)
    assert await client.get(b"a") is None
    await client.flush_all(node, noreply=True)
    assert await client.get_many([b"a", b"b"]) == {}


async def values(client):
    for size in map(int, sizes):
        # No END with its line end: emcache takes one for the end of everything when a read stops behind it.
        key, value = b"secret-key-text-%d" % size, (b"\x00\r\nEND \r" * (size // 8 + 1))[:size]
        if scenario == "use":
            await client.set(key, value)
            assert (await client.get(key)).value == value, f"get of {size} bytes"
        else:
            assert await client.get(key) is None, f"{key} is there"


async def main():
    if scenario == "use":
        client = await connect(max_connections=1)
        await every_operation(client)
        await silent_operations(client)
        await client.close()
    client = await connect(autobatching=True)
    await values(client)
    await client.close()


async def denied():
    try:
        await asyncio.wait_for(main(), 5)
    except Exception:
        # emcache has no error of its own for it: whatever it is, nothing was read.
        return
    sys.exit("the token was accepted")


asyncio.run(denied() if scenario == "denied" else main())
