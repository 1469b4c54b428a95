"""What python-binary-memcached's own tests ask of a server, and more: printed for a comparison (cases.py)."""

import random
import struct
import time

import bmemcached

import cases

endpoint, username, password = cases.arguments()


def connect(**options):
    return bmemcached.Client((endpoint,), username, password, socket_timeout=10, **options)


def until(holds):
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def binary_key(number):
    """Not text: any byte may be in it."""
    return struct.pack("<Q", 0x0A0D_2000_0000_0000 + number * 0x0101)


def values_and_types(client):
    values = ["text", "", "\u30b7", "\xac", b"\x01z\x7f\x00\x80\xfe\xff\x00", 1, 2**40, True, False, {"a": 1}, [None, 1.5]]
    return [(client.set("key", value), client.get("key")) for value in values]


def nothing_there(client):
    return client.get("none"), client.get("none", "default"), client.gets("none"), client.get_multi(["a", "b"])


def binary_keys(client):
    keys = [binary_key(number) for number in range(50)]
    stored = [client.set(key, str(number)) for number, key in enumerate(keys)]
    return stored.count(True), sorted(client.get_multi(keys).values()), client.delete_multi(keys), client.get(keys[0])


def add_and_replace(client):
    return [
        client.add("key", "1"), client.add("key", "2"), client.get("key"),
        client.replace("other", "1"), client.replace("key", "3"), client.get("key"),
    ]


def compare_and_swap(client):
    first = client.cas("key", "test", None), client.cas("key", "again", None)
    value, token = client.gets("key")
    changed = client.cas("key", "test2", token), client.get("key"), client.cas("key", "late", token), client.get("key")
    return first, value, token is not None, changed


def compare_and_delete(client):
    client.set("key", "1")
    _, token = client.gets("key")
    return client.delete("key", cas=token + 1), client.get("key"), client.delete("key", cas=token), client.get("key")


def many_with_cas(client):
    first = client.set_multi({("a", 0): "1", "b": "2"})
    second = client.set_multi({("a", 0): "3", "b": "3"})
    read = client.get("a"), client.get("b")
    _, token = client.gets("a")
    third = client.set_multi({("a", token): "4"})
    found = client.get_multi(["a", "b", "none"], get_cas=True)
    return first, second, read, third, sorted((key, value) for key, (value, _) in found.items())


def many_at_once(client):
    """Quiet requests: only failures are answered."""
    many = {f"key-{number}": b"value %d" % number for number in range(32_767)}
    return client.set_multi(many), client.get_multi(list(many)) == many


def deleted(client):
    client.set_multi({"a": "1", "b": "2"})
    return client.delete("a"), client.get("a"), client.delete("a"), client.delete_multi(["a", "b"]), client.get("b")


def counters(client):
    up = client.incr("n", 1), client.incr("n", 1), client.incr("n", 5)
    down = client.decr("n", 2), client.decr("n", 100)
    initial = client.incr("m", 1, default=41), client.incr("m", 1), client.decr("k", 1, default=7), client.decr("k", 1)
    return up, down, initial


def counter_of_a_word(client):
    client.set("n", "word")
    return client.incr("n", 1)


def counter_beyond_64_bits(client):
    return client.incr("n", 1, default=2**64 - 1), client.incr("n", 1), client.get("n")


def expired(client):
    client.set("key", "1", time=1)
    client.add("other", "1", time=1)
    return client.get("key"), until(lambda: client.get("key") is None), until(lambda: client.get("other") is None)


def flushed(client):
    client.set("key", "1")
    return client.flush_all(1000), client.get("key"), client.flush_all(), client.get("key")


def values_of_all_sizes(client):
    client = connect(compression=None)

    def holds(size):
        value = (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        return client.set("key", value), client.get("key") == value

    return [holds(size) for size in (0, 1, 1024, 2048, 2049, 65_536, 1_000_000)]


def compressed(client):
    return client.set("key", "x" * 100_000), client.get("key") == "x" * 100_000, client.set("key", b"y" * 5, compress_level=9)


def too_large(client):
    client = connect(compression=None)
    client.set("key", "old")
    # It is compressed, whatever the option says; random bytes can't be.
    refused = cases.outcome(lambda: client.set("key", random.Random(1).randbytes(2 << 20)))
    return refused, client.get("key"), client.set("key", "new"), client.get("key")


def longest_key(client):
    key = "k" * 250
    return client.set(key, "1"), client.get(key), cases.outcome(lambda: client.set(key + "k", "1"))


def statistics(client):
    stats, settings = client.stats()[endpoint], client.stats("settings")[endpoint]
    return [name in stats for name in ("pid", "curr_items", "cmd_get")], "verbosity" in settings


def again_after_a_disconnect(client):
    client.set("key", "1")
    client.disconnect_all()
    return client.get("key"), client.disconnect_all(), client.get("key")


def noop(client):
    return [server.noop() for server in client.servers]


cases.run(globals(), connect)
