"""What pylibmc's own tests ask of a server, and more: printed for a comparison (cases.py).

pip's wheel finds SASL's plugins through SASL_PATH only (docs/clients.md)."""

import threading
import time

import pylibmc

import cases

endpoint, username, password = cases.arguments()


def connect(binary=True, **behaviors):
    login = {"username": username, "password": password} if username else {}
    behaviors.setdefault("connect_timeout", 10_000)
    return pylibmc.Client([endpoint], binary=binary, behaviors=behaviors, **login)


def until(holds):
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def values_and_types(client):
    values = ["text", b"bytes\x00\r\n", "olé", 1, 2**40, True, False, 1.5, {"a": [1, None]}, ("t",), "", b""]
    return [(client.set("key", value), client.get("key")) for value in values]


def nothing_there(client):
    return client.get("none"), client.get("none", 7), client.get_multi(["a", "b"]), client.delete("none"), "none" in client


def as_a_mapping(client):
    client["key"] = "value"
    found = client["key"], "key" in client
    del client["key"]
    return found, "key" in client, cases.outcome(lambda: client["key"])


def add_and_replace(client):
    return [
        client.add("key", "1"), client.add("key", "2"), client.get("key"),
        cases.outcome(lambda: client.replace("other", "1")), client.replace("key", "3"), client.get("key"),
    ]


def append_and_prepend(client):
    client.set("key", b"middle")
    return client.append("key", b"-end"), client.prepend("key", b"start-"), client.get("key"), client.append("none", b"x")


def compare_and_swap(client):
    client = connect(cas=True)
    client.set("key", 0)
    for _ in range(10):
        value, token = client.gets("key")
        client.cas("key", value + 1, token)
    late = client.cas("key", -1, token)
    return client.get("key"), late, client.gets("none"), cases.outcome(lambda: client.cas("none", 1, token))


def counters(client):
    client.set("n", 10)
    steps = client.incr("n"), client.incr("n", 5), client.decr("n"), client.decr("n", 100)
    return steps, client.get("n"), cases.outcome(lambda: client.incr("none"))


def many_counters(client):
    client.set_multi({"a": 1, "b": 2}, key_prefix="x-")
    client.incr_multi(["a", "b"], key_prefix="x-", delta=10)
    missing = cases.outcome(lambda: client.incr_multi(("c", "d"), key_prefix="x-", delta=1))
    return client.get_multi(["a", "b"], key_prefix="x-"), missing


def counter_of_a_word(client):
    client.set("n", "word")
    return client.incr("n")


def many_at_once(client):
    many = {f"key-{number}": f"value {number}" for number in range(1000)}
    stored = client.set_multi(many, time=1000), client.get_multi(list(many) + ["none"]) == many
    return stored, client.delete_multi(list(many)), client.get_multi(list(many)), client.add_multi({"a": 1})


def with_a_prefix(client):
    client.set_multi({"a": 1, "b": 2}, key_prefix="app-")
    return client.get("app-a"), client.get_multi(["a", "b", "c"], key_prefix="app-"), client.delete_multi(["a"], key_prefix="app-")


def touched(client):
    client.set("key", "1", 1)
    return client.touch("key", 1000), client.touch("none", 100), client.get("key")


def expired(client):
    client.set("key", "1", 1)
    return client.get("key"), until(lambda: client.get("key") is None)


def flushed(client):
    client.set("key", "1")
    return client.flush_all(), client.get("key")


def utf8_keys(client):
    key = "a-key-with-\ufffd-and-\U0001f4a3"
    return client.set(key, 0), client.get(key.encode()), list(client.get_multi([key]))


def longest_key(client):
    key = "k" * 250
    return client.set(key, "1"), client.get(key), cases.outcome(lambda: client.set(key + "k", "1"))


def values_of_all_sizes(client):
    def holds(size):
        value = (b"\x00\r\nEND\r\n" * (size // 8 + 1))[:size]
        return client.set("key", value), client.get("key") == value

    return [holds(size) for size in (0, 1, 1024, 2048, 2049, 65_536, 1_000_000)]


def compressed(client):
    text = "x" * 100_000
    return client.set("key", text, min_compress_len=100), client.get("key") == text


def too_large(client):
    client.set("key", "old")
    refused = cases.outcome(lambda: client.set("key", b"x" * (2 << 20)))
    return refused, client.set("key", "new"), client.get("key")


def without_waiting(client):
    client = connect(no_block=True, tcp_nodelay=True)
    stored = [client.set(f"key-{number}", number) for number in range(200)]
    return stored.count(True), client.get("key-199")


def statistics(client):
    (name, stats), = client.get_stats()
    return [key in stats for key in ("pid", "curr_items", "cmd_get")]


def threads_with_a_pool(client):
    pool = pylibmc.ClientPool(client, 4)
    failed = []

    def work(number):
        for step in range(50):
            with pool.reserve(block=True) as mine:
                key = f"key-{number}-{step}"
                if not mine.set(key, key) or mine.get(key) != key:
                    failed.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def cloned(client):
    client.set("key", "1")
    other = client.clone()
    other.disconnect_all()
    return other.get("key"), client.get("key")


cases.run(globals(), connect)
