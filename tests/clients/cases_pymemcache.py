"""What pymemcache's own tests ask of a server, and more: printed for a comparison (cases.py)."""

import threading
import time

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.client.retrying import RetryingClient
from pymemcache.serde import CompressedSerde, PickleSerde

import cases
from pymemcache_login import socket_module

endpoint, username, password = cases.arguments()
host, port = endpoint.rsplit(":", 1)


def options(**more):
    if username:
        more["socket_module"] = socket_module("auth", f"{username} {password}")
    return dict(timeout=10, connect_timeout=10, **more)


def connect(kind=Client, **more):
    more.setdefault("default_noreply", False)
    return kind((host, int(port)), **options(**more))


def until(holds):
    """Time limits are whole seconds in memcached."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def stored_and_read(client):
    return client.set("key", b"value"), client.get("key"), client.get_many(["key", "none"]), client.get_many([])


def nothing_there(client):
    return client.get("none"), client.get("none", b"default"), client.gets("none"), client.delete("none")


def without_reply(client):
    client.set("a", b"1", noreply=True)
    client.add("b", b"2", noreply=True)
    client.append("b", b"3", noreply=True)
    client.delete("a", noreply=True)
    return client.get_many(["a", "b"])


def unicode_keys(client):
    client = connect(allow_unicode_keys=True)
    return client.set("schlüssel", b"1"), client.get("schlüssel"), client.get_many(["☃", "schlüssel"])


def add_and_replace(client):
    return [
        client.add("key", b"1"), client.add("key", b"2"), client.get("key"),
        client.replace("other", b"1"), client.get("other"), client.replace("key", b"3"), client.get("key"),
    ]


def append_and_prepend(client):
    before = client.append("key", b"x"), client.prepend("key", b"x"), client.get("key")
    client.set("key", b"middle")
    return before, client.append("key", b"-end"), client.prepend("key", b"start-"), client.get("key")


def compare_and_swap(client):
    missing = client.cas("key", b"1", 1)
    client.set("key", b"value")
    value, token = client.gets("key")
    others = [client.cas("key", b"no", other) for other in (b"1", "1", 1)]
    done = client.cas("key", b"new", token), client.cas("key", b"late", token), client.get("key")
    many = client.gets_many(["key", "none"])
    return missing, value, type(token), others, done, [(key, item[0]) for key, item in many.items()]


def gets_after_deletion(client):
    client.set("key", b"1")
    _, token = client.gets("key")
    return client.delete("key"), client.cas("key", b"2", token), client.get("key")


def counters(client):
    missing = client.incr("n", 1), client.decr("n", 1)
    client.set("n", b"10")
    steps = client.incr("n", 5), client.decr("n", 3), client.decr("n", 100), client.get("n")
    client.set("n", str(2**64 - 1).encode())
    return missing, steps, client.incr("n", 2), client.incr("n", 0)


def counter_of_a_word(client):
    client.set("n", b"word")
    return client.incr("n", 1)


def counter_with_a_wrong_step(client):
    client.set("n", b"1")
    return cases.outcome(lambda: client.incr("n", b"foobar")), cases.outcome(lambda: client.incr("n", -1)), client.get("n")


def shrinking_counter(client):
    client.set("n", b"100")
    return client.decr("n", 91), client.get("n"), client.append("n", b"1"), client.get("n")


def touched(client):
    client.set("key", b"1", expire=1000)
    return client.touch("none", 1), client.touch("key"), client.touch("key", 1000), client.get("key")


def expired(client):
    client.set("key", b"1", expire=1)
    client.set("past", b"1", expire=-1)
    client.set("later", b"1", expire=int(time.time()) + 1)
    there = client.get("past"), client.get("key")
    return there, until(lambda: client.get("key") is None), until(lambda: client.get("later") is None)


def flushed(client):
    client.set("key", b"1")
    delayed = client.flush_all(1000), client.get("key")
    return delayed, client.flush_all(), client.get("key")


def many_at_once(client):
    many = {f"key-{n}": b"%d" % n for n in range(1000)}
    return client.set_many(many), client.get_many(list(many) + ["none"]) == many, client.delete_many(list(many)), client.get_many(list(many))


def duplicate_keys(client):
    client.set("a", b"1")
    return client.get_many(["a", "b", "a", "a"])


def values_of_all_sizes(client):
    def holds(size):
        value = (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        return client.set("key", value), client.get("key") == value

    return [holds(size) for size in (0, 1, 2, 1023, 1024, 2048, 2049, 65_536, 1_000_000)]


def too_large(client):
    client.set("key", b"old")
    refused = cases.outcome(lambda: client.set("key", b"x" * (2 << 20)))
    return refused, client.get("key"), client.set("key", b"new"), client.get("key")


def flags(client):
    client = connect(serde=PickleSerde(pickle_version=2))
    values = [b"bytes", "text", "olé", 1, 123123123123123123123, True, {"a": [1, None]}, ("t",), 1.5, b"", ""]
    return [(client.set("key", value), client.get("key")) for value in values]


def compressed(client):
    client = connect(serde=CompressedSerde())
    return client.set("key", "x" * 100_000), client.get("key") == "x" * 100_000


def keys_that_the_library_refuses(client):
    return [
        cases.outcome(lambda: client.set(key, b"value"))
        for key in ("two words", b"\r\nflush_all", "x" * 251, "x" * 1024, "\u0fff", b"a\x00b", b"tab\there")
    ]


def empty_key(client):
    return cases.outcome(lambda: client.set("", b"value"))


def longest_key(client):
    key = "k" * 250
    return client.set(key, b"1"), client.get(key), client.get_many([key, "a"]), client.delete(key)


def keys_of_all_printable_bytes(client):
    keys = [chr(byte) for byte in range(33, 127)]
    return [client.set(key, key.encode()) and client.get(key) == key.encode() for key in keys].count(True)


def version(client):
    return client.version()


def statistics(client):
    client.set("key", b"1")
    client.get("key")
    stats = client.stats()
    return sorted(name for name in (b"cmd_get", b"cmd_set", b"get_hits", b"curr_items", b"limit_maxbytes") if name in stats)


def settings(client):
    return sorted(name for name in (b"maxconns", b"item_size_max", b"verbosity") if name in client.stats("settings"))


def commands_of_an_operator(client):
    return (
        cases.outcome(lambda: client.cache_memlimit(64)),
        cases.outcome(lambda: client.stats("cachedump", "1", "1")),
        cases.outcome(lambda: connect().shutdown()),
    )


def unknown_commands(client):
    return cases.outcome(lambda: client.raw_command("frobnicate")), client.set("key", b"1"), client.get("key")


def raw_meta(client):
    client.set("key", b"1", flags=7)
    raw = client.raw_command
    return [raw("mg key v f"), raw("mg none v"), raw("mg key k s t"), raw("md none"), raw("md key k"), raw("mn")]


def quit_and_again(client):
    client.set("key", b"1")
    client.quit()
    again = client.get("key")
    client.close()
    return again, client.get("key")


def pooled(client):
    pool = connect(PooledClient, max_pool_size=8)
    failed = []

    def work(number):
        for step in range(50):
            key = f"key-{number}-{step}"
            if not pool.set(key, key.encode()) or pool.get(key) != key.encode():
                failed.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed, pool.get_many(["key-0-0", "key-7-49"])


def hashed(client):
    ring = HashClient([(host, int(port))], default_noreply=False, use_pooling=True, **options())
    many = {f"key-{n}": b"%d" % n for n in range(100)}
    return ring.set_many(many), ring.get_many(list(many)) == many, ring.incr("none", 1), ring.delete_many(list(many))


def retried(client):
    again = RetryingClient(client, attempts=2)
    return again.set("key", b"1"), again.get("key")


cases.run(globals(), connect)
