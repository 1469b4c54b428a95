"""Uses a client library while its cache restarts: LIBRARY ENDPOINT USERNAME PASSWORD. After a line on stdin it reads for some
seconds, and writes once the cache has lost its contents. Any error of the library fails."""

import socket
import sys
import time

library, endpoint, username, password = sys.argv[1:]
host, port = endpoint.rsplit(":", 1)
SECONDS = 4


class LoggedInSocket(socket.socket):
    """Its first request is a login: pymemcache has none of its own."""

    def connect(self, address):
        super().connect(address)
        login = f"{username} {password}"
        self.sendall(f"set auth 0 0 {len(login)}\r\n{login}\r\n".encode())
        reply = b""
        while not reply.endswith(b"\r\n"):
            reply += self.recv(1)
        assert reply == b"STORED\r\n", reply


class SocketModule:
    socket = LoggedInSocket

    def __getattr__(self, name):
        return getattr(socket, name)


def connect():
    if library == "pylibmc":
        import pylibmc

        return pylibmc.Client([endpoint], binary=True, username=username, password=password)
    if library == "bmemcached":
        import bmemcached

        return bmemcached.Client((endpoint,), username, password)
    from pymemcache.client.base import Client

    return Client((host, int(port)), socket_module=SocketModule(), default_noreply=False)


client = connect()
# Another library's flags mean something else.
key, value = f"key-{library}", b"a value"
assert client.set(key, value) and client.get(key) == value
print("ready", flush=True)
sys.stdin.readline()
longest, lost, end = 0.0, 0, time.monotonic() + SECONDS
while time.monotonic() < end:
    begun = time.monotonic()
    found = client.get(key)
    if found is None:
        lost += 1
        assert client.set(key, value), "a server that is marked dead stores nothing"
    else:
        assert found == value
    longest = max(longest, time.monotonic() - begun)
assert client.get(key) == value
print(f"lost {lost} longest {longest:.3f}", flush=True)
