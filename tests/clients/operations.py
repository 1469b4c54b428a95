"""Uses one connection of a client library while operations change its cache.

Arguments: LIBRARY ENDPOINT USERNAME PASSWORD SECONDS; the last is its time limit.

Stores its items and prints `ready`. After a line `use` or `read` it prints `begun` once a request has been answered, and gets and
sets items until the line `stop`; then it reads all of them and prints a report. With `read` it sets only what is missing.
"""

import json
import logging
import queue
import sys
import threading
import time

library, endpoint, username, password, seconds = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)
ITEMS = 200
SIZE = 4000
# Each fifth request is a set.
SET_EVERY = 5
# An operation may be done before a client has made so many.
REQUESTS_MIN = 50
# The clients of a test leave some of the machine to what they test.
PACE_SECONDS = 0.001


def connect_pylibmc():
    import pylibmc

    behaviors = {"_poll_timeout": int(seconds) * 1000}
    client = pylibmc.Client([endpoint], binary=True, username=username, password=password, behaviors=behaviors)
    return client.get, client.set


def connect_bmemcached():
    import bmemcached

    client = bmemcached.Client((endpoint,), username, password, socket_timeout=int(seconds))
    (server,) = client.servers
    client.get("the first request connects")
    connection = server.connection

    def get(key):
        value = client.get(key)
        # It makes a miss of a lost connection, and opens another one.
        assert server.connection is connection, "another connection"
        return value

    return get, client.set


def connect_pymemcache():
    from pymemcache.client.base import Client

    from pymemcache_login import socket_module

    login = socket_module("auth", f"{username} {password}")
    options = {"socket_module": login, "default_noreply": False, "timeout": int(seconds)}
    client = Client((host, int(port)), **options)
    return client.get, client.set


def connect_emcache():
    import asyncio

    import emcache

    loop = asyncio.new_event_loop()
    node = emcache.MemcachedHostAddress(host, int(port))
    options = {"username": username, "password": password, "timeout": float(seconds), "max_connections": 1}
    client = loop.run_until_complete(emcache.create_client([node], **options))

    def get(key):
        item = loop.run_until_complete(client.get(key.encode()))
        return item and item.value

    def set(key, value):
        loop.run_until_complete(client.set(key.encode(), value))
        return True

    return get, set


class Warnings(logging.Handler):
    """Collects what a library only logs, such as that it has opened a new connection."""

    texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


class Items:
    """What has been stored, and what became of it."""

    def __init__(self, get, set):
        self.get, self.set = get, set
        # The version of each item; one whose set has failed has none.
        self.versions = {}
        self.version = 0
        self.restart()

    def restart(self):
        self.requests, self.longest, self.lost, self.wrong, self.errors = 0, 0.0, 0, 0, []

    def report(self):
        errors = self.errors + Warnings.texts
        numbers = {"requests": self.requests, "lost": self.lost, "wrong": self.wrong, "longest_ms": round(self.longest * 1000)}
        return json.dumps(numbers | {"errors": len(errors), "error": (errors or [""])[0]})

    def value(self, number):
        text = f"item {number} of {library}, version {self.versions[number]}. ".encode()
        return (text * (SIZE // len(text) + 1))[:SIZE]

    def request(self, number, call, *arguments):
        """The reply, or an error, which is noted."""
        started = time.monotonic()
        try:
            return call(f"{library}-{number}", *arguments)
        except Exception as error:
            self.versions.pop(number, None)
            self.errors.append(f"{type(error).__name__}: {error}")
            return error
        finally:
            self.longest = max(self.longest, time.monotonic() - started)
            self.requests += 1

    def store(self, number):
        self.version += 1
        self.versions[number] = self.version
        stored = self.request(number, self.set, self.value(number))
        if not stored:
            # What a library replies whose server is marked dead.
            self.versions.pop(number)
            self.errors.append("not stored")

    def check(self, number):
        if number not in self.versions:
            return self.store(number)
        expected = self.value(number)
        found = self.request(number, self.get)
        if found is None:
            self.lost += 1
            self.store(number)
        elif not isinstance(found, Exception):
            self.wrong += found != expected

    def use(self, commands, only_reads):
        turn = 0
        while commands.empty() or turn < REQUESTS_MIN:
            if turn % SET_EVERY == 0 and not only_reads:
                self.store(turn // SET_EVERY % ITEMS)
            else:
                self.check(turn % ITEMS)
            turn += 1
            if turn == 1:
                print("begun", flush=True)
            time.sleep(PACE_SECONDS)
        assert commands.get() == "stop"
        requests = self.requests
        for number in range(ITEMS):
            self.check(number)
        self.requests = requests


def read_commands(commands):
    for line in sys.stdin:
        commands.put(line.strip())
    commands.put("end")


logging.getLogger().addHandler(Warnings(logging.WARNING))
commands = queue.Queue()
threading.Thread(target=read_commands, args=[commands], daemon=True).start()
items = Items(*globals()[f"connect_{library}"]())
for number in range(ITEMS):
    items.store(number)
assert not items.errors, items.errors
print("ready", flush=True)
while (command := commands.get()) != "end":
    items.restart()
    Warnings.texts.clear()
    items.use(commands, command == "read")
    print(items.report(), flush=True)
