from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheServerError


class LoginClient(Client):
    def _connect(self):
        super()._connect()
        login = b"@USERNAME@ @PASSWORD@"
        self.sock.sendall(b"set auth 0 0 %d\r\n%s\r\n" % (len(login), login))
        if self.sock.recv(64) != b"STORED\r\n":
            self.close()
            raise MemcacheServerError("the login was refused")


class Cache(PooledClient):
    client_class = LoginClient


cache = Cache(("@HOST@", @PORT@), encoding="utf-8")

cache.set("hello", "world", expire=60, noreply=False)
print(cache.get("hello").decode())
