"""How a proxy starts with many users in the store, and what it holds of them. Run by `./deploy/measure many-users`.

Writes an SQLite store with that many users, each with a cache, an instance and a token, starts a proxy alone, and logs in with
more and more tokens. No container is started: a login needs none.
"""

import argparse
import asyncio
import hashlib
import hmac
import http.client
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "mg_"
# Numbers with leading zeros, as ids of twelve characters.
ID = "printf('%012d', n)"
NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count)"
ROWS = (
    f"INSERT INTO users (id, email, plan, is_admin, state, created_at, revision) {NUMBERS} "
    f"SELECT {ID}, 'user' || n || '@example.org', 'default', 0, 'active', :now, 1 FROM numbers",
    f"INSERT INTO caches (id, user_id, name, plan, created_at, revision) {NUMBERS} "
    f"SELECT {ID}, {ID}, 'default', 'default', :now, 1 FROM numbers",
    "INSERT INTO instances (id, cache_id, memory_mb, connections, item_size_max, desired, created_at, revision) "
    f"{NUMBERS} SELECT {ID}, {ID}, 64, 20000, 1048576, 'running', :now, 1 FROM numbers",
    f"INSERT INTO routes (instance_id, state, generation, address, changed_at, revision) {NUMBERS} "
    f"SELECT {ID}, 'running', 1, '10.217.' || (n / 250 % 250) || '.' || (n % 250 + 2), :now, 1 FROM numbers",
)
TOKEN = (
    "INSERT INTO tokens (id, cache_id, name, secret_hash, scram_salt, scram_iterations, scram_stored_key, "
    "scram_server_key, scopes, created_at, revision) VALUES (?, ?, 'first', ?, ?, 4096, ?, ?, 'read,write', ?, 1)"
)
CONNECTIONS = 50
# Clients come from as many loopback addresses, each with its own ports.
SOURCES = 20


def secret_of(number):
    """The secret half of a token: any letters and digits, and their checksum."""
    token, secret = f"{number:012d}", f"{number:027d}"
    rest, digits = zlib.crc32(f"{PREFIX}{token}_{secret}".encode()), ""
    for _ in range(6):
        digits = BASE62[rest % 62] + digits
        rest //= 62
    return secret + digits


def secret_hash(key, number):
    parts = ("token", f"{number:012d}", secret_of(number))
    return hmac.new(key, b"".join(part.encode() + b"\0" for part in parts), hashlib.sha256).hexdigest()


def fill(data, count):
    """Writes the users. Returns the size of the database in MB."""
    with open(os.path.join(data, "token.key")) as file:
        key = bytes.fromhex(file.read().strip())
    path, now = os.path.join(data, "db", "memgate.db"), int(time.time() * 1000)
    database = sqlite3.connect(path)
    with database:
        for statement in ROWS:
            database.execute(statement, {"count": count, "now": now})
        salt, stored = "00" * 16, "00" * 32
        rows = ((f"{n:012d}", f"{n:012d}", secret_hash(key, n), salt, stored, stored, now) for n in range(count))
        database.executemany(TOKEN, rows)
    database.close()
    return os.path.getsize(path) / 1e6


class Proxy:
    """A proxy that runs alone, with its data in a directory that `memgate migrate` has made."""

    def __init__(self, memgate, env, ports, log):
        self.port, self.health = ports
        started = time.monotonic()
        self.process = subprocess.Popen([memgate, "proxy"], env=env, stdout=log, stderr=log)
        while not self.is_ready():
            if self.process.poll() is not None:
                sys.exit(f"error: the proxy ended: see {log.name}")
            time.sleep(0.002)
        self.start_s = time.monotonic() - started

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.health, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def is_ready(self):
        return self.get("/readyz")[0] == 200

    def memory_mb(self):
        with open(f"/proc/{self.process.pid}/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    async def log_in(self, number):
        source = (f"127.0.1.{number % SOURCES + 1}", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=source)
        login = f"{PREFIX}{number:012d} {secret_of(number)}".encode()
        writer.write(b"set auth 0 0 %d\r\n%s\r\n" % (len(login), login))
        reply = await reader.readline()
        writer.close()
        if reply != b"STORED\r\n":
            raise RuntimeError(f"login {number} was answered {reply}")

    async def log_in_all(self, numbers):
        numbers = iter(numbers)

        async def client():
            for number in numbers:
                await self.log_in(number)

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))


def main(memgate, free_ports, arguments):
    parser = argparse.ArgumentParser(prog="./deploy/measure many-users", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="users in the store (1,000,000)")
    parser.add_argument("--active", default="0,1000,100000", help="tokens that log in (0,1000,100000)")
    options = parser.parse_args(arguments)
    active = sorted(int(count) for count in options.active.split(","))
    if not 0 < options.users <= 10**7 or active[-1] > options.users:
        parser.error("--users is 1 to 10,000,000, and not less than --active")
    with tempfile.TemporaryDirectory() as directory:
        measure(memgate, free_ports(2), directory, options.users, active)


def measure(memgate, ports, directory, users, active):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEMGATE_")}
    env["MEMGATE_DATA"] = os.path.join(directory, "data")
    env["MEMGATE_PROXY__LISTEN"], env["MEMGATE_PROXY__HEALTH"] = (f"127.0.0.1:{port}" for port in ports)
    subprocess.run([memgate, "migrate"], env=env, check=True, stdout=subprocess.DEVNULL)
    print(f"writing {users:,} users ...", file=sys.stderr)
    size = fill(env["MEMGATE_DATA"], users)
    with open(os.path.join(directory, "proxy.log"), "w+") as log:
        proxy = Proxy(memgate, env, ports, log)
        try:
            print(f"users in the store      {users:,} ({size:,.0f} MB of SQLite)")
            print(f"start to ready          {proxy.start_s:.3f} s")
            done = 0
            for count in active:
                started = time.monotonic()
                asyncio.run(proxy.log_in_all(range(done, count)))
                seconds, new, done = time.monotonic() - started, count - done, count
                rate = f", {new / seconds:,.0f} logins a second" if new else ""
                print(f"{count:>9,} active grants  {proxy.memory_mb():.1f} MB{rate}")
        finally:
            proxy.process.terminate()
            proxy.process.wait()
