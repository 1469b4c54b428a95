"""Logs pymemcache in, which has no login of its own: each of its sockets sends one first."""

import socket


class LoginRefused(Exception):
    pass


def socket_module(key, value):
    """The socket module, as far as pymemcache uses it, with sockets that log in by a set of this key and value."""

    class LoggedInSocket(socket.socket):
        def connect(self, address):
            super().connect(address)
            self.sendall(f"set {key} 0 0 {len(value)}\r\n{value}\r\n".encode())
            reply = b""
            while not reply.endswith(b"\r\n"):
                byte = self.recv(1)
                if not byte:
                    break
                reply += byte
            if reply != b"STORED\r\n":
                raise LoginRefused(reply)

    class SocketModule:
        socket = LoggedInSocket

        def __getattr__(self, name):
            return getattr(socket, name)

    return SocketModule()
