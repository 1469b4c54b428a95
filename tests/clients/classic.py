"""pymemcache (text protocol; it has no login): use | miss | denied.

Over TLS it shows the certificate that CERT and KEY name; else its sockets log in first."""

import os
import ssl
import sys

from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError, MemcacheError, MemcacheUnknownCommandError

from pymemcache_login import LoginRefused, socket_module

scenario, endpoint, username, password, *sizes = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)


def fails(error, call, *arguments):
    try:
        call(*arguments)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def connect(kind=Client, **options):
    if "CERT" in os.environ:
        context = ssl.create_default_context(cafile=os.environ["CA"])
        context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
        options["tls_context"] = context
    else:
        # MemCachier's form: the username is the key, the password the value.
        options["socket_module"] = socket_module(username, password)
    return kind((host, int(port)), timeout=10, connect_timeout=10, **options)


def every_operation(client):
    assert client.flush_all()
    assert client.get("a") is None and client.get("a", 5) == 5 and client.gets("a") == (None, None)
    assert client.set("a", b"1") and client.get("a") == b"1"
    assert client.set("a", b"1", expire=1000, flags=5)
    value, cas = client.gets("a")
    assert value == b"1" and client.cas("a", b"2", cas) and client.cas("a", b"3", cas) is False
    assert client.cas("missing", b"3", cas) is None
    assert client.add("a", b"3") is False and client.add("b", b"3")
    assert client.replace("c", b"3") is False and client.replace("b", b"4")
    assert client.append("b", b"5") and client.prepend("b", b"3") and client.get("b") == b"345"
    assert client.append("c", b"5") is False and client.prepend("c", b"3") is False
    many = {f"multi-{n}": b"%d" % n for n in range(100)}
    assert client.set_many(many) == [] and client.set_multi(many) == []
    assert client.get_many([f"multi-{n}" for n in range(150)]) == many
    assert {key: value for key, (value, _) in client.gets_many(list(many)).items()} == many
    assert client.delete_many(list(many)) and client.get_multi(list(many)) == {}
    assert client.delete("b") and client.delete("b") is False
    assert client.set("counter", b"1") and client.incr("counter", 2) == 3 and client.decr("counter", 1) == 2
    assert client.incr("missing", 1) is None
    fails(MemcacheError, client.incr, "a", 2**64)
    assert client.touch("a", 1000) and client.touch("missing", 1000) is False
    assert client.version().startswith(b"1.")
    assert client.stats()[b"curr_items"] > 0 and b"maxconns" in client.stats("settings")
    # What would reach beyond the caller's own data.
    fails(MemcacheUnknownCommandError, client.cache_memlimit, 1)
    fails(MemcacheUnknownCommandError, client.stats, "cachedump", "1", "1")
    assert client.raw_command("mg a v") == b"VA 1" and client.sock is not None
    client.close()
    assert client.raw_command("mn") == b"MN" and client.raw_command(b"verbosity 1") == b"OK"
    fails(MemcacheClientError, client.set, "k" * 251, b"1")
    assert client.flush_all(1000) and client.get("a") == b"2", "flushed before its time"
    client.quit()
    assert client.get("a") == b"2", "it logs in again"
    fails(MemcacheUnknownCommandError, client.shutdown)
    assert client.get("a") == b"2", "it was shut down"


def silent_operations(client):
    """noreply is pymemcache's default."""
    client.set("a", b"1")
    client.add("a", b"2")
    client.replace("a", b"3")
    client.append("a", b"4")
    client.prepend("a", b"2")
    assert client.get("a") == b"234"
    client.incr("a", 1, noreply=True)
    client.decr("a", 2, noreply=True)
    client.touch("a", 1000)
    client.set_many({"b": b"1", "c": b"2"})
    assert client.get_many(["a", "b", "c"]) == {"a": b"233", "b": b"1", "c": b"2"}
    client.delete("a")
    client.delete_many(["b"])
    assert client.get_many(["a", "b", "c"]) == {"c": b"2"}
    client.flush_all()
    assert client.get("c") is None


def values(client):
    for size in map(int, sizes):
        key, value = f"secret-key-classic-{size}", (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        if scenario == "use":
            assert client.set(key, value), f"set of {size} bytes"
            assert client.get(key) == value, f"get of {size} bytes"
        else:
            assert client.get(key) is None, f"{key} is there"


try:
    if scenario == "use":
        every_operation(connect(default_noreply=False))
        silent_operations(connect())
    values(connect(PooledClient, default_noreply=False))
    assert scenario != "denied", "the token was accepted"
except (LoginRefused, MemcacheClientError) as error:
    assert scenario == "denied"
    assert isinstance(error, LoginRefused) or error.args == (b"unauthenticated",)
