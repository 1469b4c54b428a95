"""python-binary-memcached (binary protocol, SASL PLAIN): use | miss | denied."""

import os
import ssl
import sys

import bmemcached

scenario, endpoint, username, password, *sizes = sys.argv[1:]
DENIED = (0x08, 0x20)


# With a certificate authority all goes over TLS.
ca = os.environ.get("CA")


def client(**options):
    if ca:
        options["tls_context"] = ssl.create_default_context(cafile=ca)
    return bmemcached.Client((endpoint,), username, password, socket_timeout=10, **options)


def every_operation():
    ours = client()
    assert ours.flush_all()
    assert ours.get("a") is None and ours.get("a", "default") == "default" and ours.gets("a") == (None, None)
    assert ours.set("a", "text") and ours.get("a") == "text"
    for value in (b"bytes", 15, 2**40, True, {"a": [1, 2.5, None]}, "grüße", "x" * 100_000):
        assert ours.set("a", value) and ours.get("a") == value, value
    assert ours.set("with space\r\n", b"strange key") and ours.get("with space\r\n") == b"strange key"
    assert ours.set("k" * 250, b"long key") and ours.get("k" * 250) == b"long key"
    assert ours.add("a", b"x") is False, "add of an existing key"
    assert ours.add("b", b"new") and ours.get("b") == b"new"
    assert ours.replace("nothing", b"x") is False and ours.replace("b", b"newer") and ours.get("b") == b"newer"
    value, cas = ours.gets("b")
    assert value == b"newer" and ours.get("b", get_cas=True) == (value, cas)
    assert ours.cas("b", b"newest", cas) and not ours.cas("b", b"no", cas)
    stored, cas = ours.set("b", b"again", get_cas=True)
    assert stored and ours.cas("b", b"with cas", cas)
    assert ours.delete("b", cas=ours.gets("b")[1] + 1) is False, "delete with another's cas"
    assert ours.delete("b") and ours.get("b") is None and ours.delete("b"), "a delete of nothing is well"
    many = {f"multi-{n}": b"%d" % n for n in range(100)}
    assert ours.set_multi(many) == []
    assert ours.get_multi([f"multi-{n}" for n in range(150)]) == many
    with_cas = ours.get_multi(list(many), get_cas=True)
    assert {key: value for key, (value, _) in with_cas.items()} == many
    failed = ours.set_multi({("multi-0", with_cas["multi-0"][1]): b"cas", ("multi-1", 1): b"no", ("new", 0): b"1"})
    assert [key for key, _ in failed] == ["multi-1"] and ours.get("new") == b"1"
    casses = ours.set_multi_cas({"multi-2": b"2", "multi-3": b"3"})
    assert casses["multi-2"] == ours.gets("multi-2")[1]
    assert ours.set_multi_cas({("multi-2", 0): b"no"}) == {"multi-2": None}
    assert ours.delete_multi(list(many)) and ours.get_multi(list(many)) == {}
    assert ours.incr("counter", 2) == 0, "the first makes it"
    assert ours.incr("counter", 2) == 2 and ours.decr("counter", 1) == 1 and ours.decr("counter", 5) == 0
    assert ours.set("expires", b"1", time=1000) and ours.get("expires") == b"1"
    statistics = ours.stats()[endpoint]
    assert statistics["version"] and int(statistics["cmd_set"]) > 0
    assert ours.stats("settings")[endpoint]["maxconns"]
    for server in ours.servers:
        server.noop()
    ours.disconnect_all()
    assert ours.get("expires") == b"1", "it logs in again"
    assert ours.flush_all(100) and ours.get("expires") == b"1", "flushed before its time"


def values():
    ours = client(compression=None)
    for size in map(int, sizes):
        key, value = f"secret-key-binary-{size}", (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        if scenario == "use":
            assert ours.set(key, value), f"set of {size} bytes"
            assert ours.get(key) == value, f"get of {size} bytes"
            continue
        try:
            assert ours.get(key) is None, f"{key} is there"
            assert scenario == "miss", "the token was accepted"
        except bmemcached.exceptions.MemcachedException as error:
            assert scenario == "denied" and error.code in DENIED, error
            break  # it gives a server up for a while: everything is a miss then


if scenario == "use":
    every_operation()
values()
