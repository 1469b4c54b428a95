"""python-binary-memcached (binary protocol, SASL PLAIN): use | find-nothing | be-refused."""

import sys

import bmemcached

what, endpoint, username, password, *sizes = sys.argv[1:]
client = bmemcached.Client((endpoint,), username, password, compression=None, socket_timeout=10)

for size in map(int, sizes):
    key, value = f"binary-{size}", (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
    if what == "use":
        assert client.set(key, value), f"set of {size} bytes"
        assert client.get(key) == value, f"get of {size} bytes"
    else:
        try:
            assert client.get(key) is None, f"{key} is there"
            assert what == "find-nothing", "the token was accepted"
        except bmemcached.exceptions.MemcachedException as error:
            assert what == "be-refused" and error.code in (0x08, 0x20), error
            break  # it gives a server up for a while: everything is a miss then

if what == "use":
    assert client.add("binary-1", b"x") is False, "add of what is there"
    assert client.set_multi({f"multi-{n}": b"%d" % n for n in range(100)}) == []
    assert len(client.get_multi([f"multi-{n}" for n in range(150)])) == 100
    assert client.delete("multi-0") and client.get("multi-0") is None
    assert client.set("counter", "1") and client.incr("counter", 2) == 3 and client.decr("counter", 1) == 2
    value, cas = client.gets("binary-1")
    assert client.cas("binary-1", b"y", cas) and not client.cas("binary-1", b"z", cas)
