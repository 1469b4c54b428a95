"""memcache (meta protocol, login as memcached -Y): use | miss | denied."""

import asyncio
import sys

import memcache
from memcache import AsyncMemcache, Memcache, MemcacheError, MetaCommand

scenario, endpoint, username, password, *sizes = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)


def connect(kind=Memcache):
    return kind((host, int(port)), username=username, password=password)


def fails(call, *arguments):
    try:
        call(*arguments)
    except MemcacheError:
        return
    raise AssertionError("no error")


def every_operation(client):
    client.flush_all()
    assert client.get("a") is None and client.gets("a") is None
    for value in (b"bytes", "text", 15, {"a": [1, None]}, "grüße", "x" * 100_000):
        client.set("a", value, expire=1000)
        assert client.get("a") == value, value
    value, cas = client.gets("a")
    client.cas("a", b"no number", cas, expire=1000)
    fails(client.cas, "a", b"3", cas)
    fails(client.incr, "a", 1)
    client.set("counter", 1)
    assert client.incr("counter", 2) == 3 and client.decr("counter", 1) == 2 and client.incr("counter") == 3
    client.delete("a")
    client.delete("a")
    assert client.get("a") is None
    fails(client.incr, "a", 1)


def every_meta_command(client):
    """The client reads flags only behind a value, so only there are some asked for."""

    def ask(verb, key, *flags, value=None):
        length = None if value is None else len(value)
        command = MetaCommand(cm=verb, key=key, datalen=length, flags=list(flags), value=value)
        result = client.execute_meta_command(command)
        return result.rc, result.value, result.flags

    assert ask(b"mg", "m", b"v") == (b"EN", None, [])
    assert ask(b"ms", "m", b"F7", b"T100", value=b"one") == (b"HD", None, [])
    assert ask(b"mg", "m", b"v", b"f", b"k", b"s", b"Oback") == (b"VA", b"one", [b"f7", b"km", b"s3", b"Oback"])
    assert ask(b"mg", "m") == (b"HD", None, [])
    assert ask(b"ms", "m", b"ME", value=b"two")[0] == b"NS"
    assert ask(b"ms", "m", b"MA", value=b"two")[0] == b"HD"
    assert ask(b"ms", "m", b"C1", value=b"two")[0] == b"EX"
    assert ask(b"mg", "bQ==", b"b", b"v", b"k") == (b"VA", b"onetwo", [b"km"])
    assert ask(b"ms", "YQBi", b"b", value=b"nul")[0] == b"HD"
    assert ask(b"mg", "YQBi", b"b", b"v", b"k") == (b"VA", b"nul", [b"kYQBi", b"b"])
    assert ask(b"ma", "n", b"N0", b"J13", b"v")[:2] == (b"VA", b"13")
    assert ask(b"ma", "n", b"MD", b"D3", b"v", b"t") == (b"VA", b"10", [b"t-1"])
    assert ask(b"md", "m", b"I", b"T30") == (b"HD", None, [])
    assert b"W" in ask(b"mg", "m", b"v")[2], "the first to see it stale wins"
    assert b"Z" in ask(b"mg", "m", b"v")[2], "the second doesn't"
    assert ask(b"md", "m")[0] == b"HD" and ask(b"md", "m")[0] == b"NF"
    assert ask(b"me", "m")[0] == b"EN" and ask(b"mn", "")[0] == b"MN"
    fails(ask, b"mg", "n", b"!")
    assert ask(b"mg", "n", b"v")[1] == b"10", "the connection is still in step"


async def every_operation_at_once(client):
    await client.flush_all()
    await asyncio.gather(*(client.set(f"at-once-{n}", n) for n in range(100)))
    assert await asyncio.gather(*(client.get(f"at-once-{n}") for n in range(100))) == list(range(100))
    assert await client.incr("at-once-1", 4) == 5 and await client.decr("at-once-1", 2) == 3
    value, cas = await client.gets("at-once-2")
    await client.cas("at-once-2", value + 1, cas)
    await client.delete("at-once-3")
    assert await client.get("at-once-2") == 3 and await client.get("at-once-3") is None


def values(client):
    for size in map(int, sizes):
        key, value = f"secret-key-meta-{size}", (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        if scenario == "use":
            client.set(key, value)
            assert client.get(key) == value, f"get of {size} bytes"
        else:
            assert client.get(key) is None, f"{key} is there"


try:
    if scenario == "use":
        every_operation(connect())
        every_meta_command(connect())
        asyncio.run(every_operation_at_once(connect(AsyncMemcache)))
    values(connect())
    assert scenario != "denied", "the token was accepted"
except MemcacheError as error:
    assert scenario == "denied", error
