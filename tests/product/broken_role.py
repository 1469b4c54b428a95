"""Code that runs as an unprivileged role of memgate, and wants to be root.

plant DATA VICTIM   until stdin ends, tries to give every name in every folder of the data directory another meaning;
                    prints a line for what it managed, and "round" when it has tried everything once more
read FILE...        prints the files that it can read
connect SOCKET...   prints the sockets that it can connect to
dial IP             prints the address if something accepts a connection at memcached's port
type TERMINAL       tries to type into the terminal, and into its own open files; prints where it worked
rename ID DATABASE  changes the installation's id in the database
"""
import fcntl
import os
import select
import socket
import sqlite3
import sys
import termios

NAMES = """memgate.toml installation.id token.key lane.key up.lock .made-by-memgate ca.pem ca.key ca.pem.new ca.key.new
server.pem server.key server.pem.new server.key.new memgate.db memgate.db-wal memgate.db-shm memgate.db-journal
memgate.leader db new""".split()


def manages(attempt):
    try:
        attempt()
        return True
    except OSError:
        return False


def attempts(path, victim, database):
    yield "remove", lambda: os.unlink(path)
    yield "remove folder", lambda: os.rmdir(path)
    yield "rename", lambda: os.rename(path, path + ".moved")
    yield "symlink", lambda: os.symlink(victim, path)
    yield "link", lambda: os.link(database, path)
    yield "fifo", lambda: os.mkfifo(path)
    yield "folder", lambda: os.mkdir(path)
    yield "create", lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    yield "chmod", lambda: os.chmod(path, 0o666)
    yield "chown", lambda: os.chown(path, os.getuid(), os.getgid())
    if not os.path.basename(path).startswith("memgate.db"):
        yield "write", lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def plant(data, victim):
    database = os.path.join(data, "db", "memgate.db")
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        for folder in [data, os.path.join(data, "db")]:
            for name in NAMES:
                path = os.path.join(folder, name)
                for what, attempt in attempts(path, victim, database):
                    if manages(attempt):
                        print(what, path, flush=True)
        print("round", flush=True)


def type_into(terminal):
    def into(file):
        for byte in b"id\n":
            fcntl.ioctl(file, termios.TIOCSTI, bytes([byte]))

    for name in [terminal, "/dev/tty"]:
        if manages(lambda: into(os.open(name, os.O_RDWR | os.O_NOCTTY))):
            print(name)
    for file in range(10):
        if manages(lambda: into(file)):
            print("file", file)


def connects(path):
    return manages(lambda: socket.socket(socket.AF_UNIX).connect(path))


task, *arguments = sys.argv[1:]
if task == "plant":
    plant(*arguments)
elif task == "read":
    print(*[path for path in arguments if manages(lambda: open(path, "rb").read(1))], sep="\n")
elif task == "connect":
    print(*[path for path in arguments if connects(path)], sep="\n")
elif task == "dial":
    if manages(lambda: socket.create_connection((arguments[0], 11211), timeout=2).close()):
        print(arguments[0])
elif task == "type":
    type_into(*arguments)
elif task == "rename":
    connection = sqlite3.connect(arguments[1], timeout=10)
    connection.execute("UPDATE installation SET id = ?", [arguments[0]])
    connection.commit()
