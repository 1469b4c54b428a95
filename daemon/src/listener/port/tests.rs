//! What other users get of a kept port, with duplicates of its sockets and without.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::bind;
use super::*;

/// Broken roles and other users.
const W: u32 = 65_532;
const L: u32 = 65_533;

/// Prints what another user's program gets of a port.
const TAKE: &str = "
hosts = {address[0], '0.0.0.0', '::', '127.0.0.1', '::1'}
for host, chosen in itertools.product(hosts, itertools.product([0, 1], [0, 1])):
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, chosen[0])
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, chosen[1])
        try:
            if ':' in host:
                thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            thief.bind((host, address[1]))
            thief.listen()
            print('listens', host, chosen)
        except OSError:
            pass
";
/// A broken role's accomplice makes the kernel refuse the port to fresh sockets: with a connection of another user's that shares the
/// port no more, and a socket on another address, for which the kernel looks at all that have the port. Then it waits.
const BLOCK: &str = "
kept.setblocking(True)
blocker, _ = kept.accept()
blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
other = socket.socket()
other.bind(('127.0.0.2', address[1]))
other.listen()
print('blocked', flush=True)
signal.pause()
";
/// Ignores clients whose packets don't come with the highest TTL (IP_MINTTL), so practically all.
const DISTURB: &str = "kept.setsockopt(socket.IPPROTO_IP, 21, 255)";
/// Attaches a program that gives all connections to the first socket of the port (SO_ATTACH_REUSEPORT_CBPF).
const STEER: &str = "
import ctypes, struct
program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))
try:
    kept.setsockopt(socket.SOL_SOCKET, 51, struct.pack('HP', 1, ctypes.addressof(program)))
    print('attached')
except PermissionError:
    pass
";
const STOP: &str = "kept.shutdown(socket.SHUT_RD)";
const LISTEN: &str = "
try:
    kept.listen()
    print('listens')
except OSError:
    pass
";

/// A Python program of another user, which has a duplicate of a socket.
fn python(user: u32, listener: &TcpListener, program: &str) -> Command {
    let start =
        "import itertools, signal, socket\nkept = socket.socket(fileno=0)\naddress = kept.getsockname()\n";
    let mut python = Command::new("setpriv");
    python.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    python.args(["/usr/bin/python3", "-c", &format!("{start}{program}")]);
    python.stdin(OwnedFd::from(listener.try_clone().unwrap()));
    python
}

/// What such a program prints.
fn as_user(user: u32, listener: &TcpListener, program: &str) -> String {
    let output = python(user, listener, program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether all of some clients reach one of a port's sockets.
fn serves(port: &Port) -> bool {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let reaches = |_| {
        let Ok(_client) = TcpStream::connect_timeout(&port.address(), TIMEOUT) else { return false };
        let started = Instant::now();
        let mut is_accepted = false;
        while !is_accepted && started.elapsed() < TIMEOUT {
            is_accepted = port.listeners().iter().any(|listener| listener.accept().is_ok());
        }
        is_accepted
    };
    (0..20).all(reaches)
}

//
#[test]
fn a_kept_port_is_renewed_and_refuses_clients_when_it_is_closed() {
    for count in [1, 3] {
        let mut port = Port::bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
        let address = port.address();
        assert!(Port::bind(address, count).is_err());
        let duplicates: Vec<_> = port.listeners().iter().map(|it| it.try_clone().unwrap()).collect();
        SockRef::from(&duplicates[0]).shutdown(Shutdown::Read).unwrap();
        assert!(!port.is_listening());
        port.renew().unwrap();
        assert!(port.is_listening() && serves(&port));
        assert!(duplicates.iter().all(|it| !SockRef::from(it).is_listener().unwrap()));
        let duplicates: Vec<_> = port.listeners().iter().map(|it| it.try_clone().unwrap()).collect();
        port.close_listeners();
        let refused = TcpStream::connect(address).unwrap_err().kind();
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
        assert!(duplicates.iter().all(|it| !SockRef::from(it).is_listener().unwrap()));
        drop(duplicates);
        assert!(bind(address, 1).is_err(), "it is kept");
        port.renew().unwrap();
        let duplicate = port.listeners()[0].try_clone().unwrap();
        drop(port);
        assert!(!SockRef::from(&duplicate).is_listener().unwrap());
        drop(duplicate);
        assert!(bind(address, 1).is_ok());
    }
}

//
#[test]
fn who_has_a_duplicate_neither_frees_a_port_nor_keeps_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for count in [1, 2] {
        let mut port = Port::bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
        let held: Vec<_> = port.listeners().iter().map(|it| it.try_clone().unwrap()).collect();
        for socket in &held {
            assert_eq!(as_user(W, socket, STEER), "");
            as_user(W, socket, STOP);
        }
        assert!(!port.is_listening());
        assert_eq!(as_user(L, &held[0], TAKE), "");
        assert_eq!(as_user(L, &held[0], LISTEN), "listens\n");
        as_user(W, &held[0], DISTURB);
        assert!(!serves(&port));
        port.renew().unwrap();
        assert!(serves(&port));
        for socket in &held {
            for user in [W, L, NOBODY] {
                assert_eq!(as_user(user, socket, LISTEN), "", "a retired one");
                assert_eq!(as_user(user, socket, TAKE), "");
            }
        }
        assert!(serves(&port));
    }
}

// a process that is killed retires nothing.
#[test]
fn who_has_a_duplicate_of_an_earlier_port_does_not_share_the_next_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut killed = Port::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let (address, held) = (killed.address(), killed.listeners()[0].try_clone().unwrap());
    as_user(W, &held, STOP);
    killed.listeners.clear();
    drop(killed);
    let port = Port::bind(address, 1).unwrap();
    assert_eq!(as_user(L, &held, LISTEN), "");
    assert!(serves(&port));
}

// where it isn't refused, the attack works.
#[test]
fn a_shared_port_that_nobody_keeps_can_be_steered() {
    if rustix::process::geteuid().is_root() {
        let shared = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(as_user(W, &shared[0], STEER), "attached\n");
    }
}

//
#[test]
fn a_port_is_kept_in_both_versions_of_ip() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
        let port = Port::bind(address.parse().unwrap(), 1).unwrap();
        assert_eq!(as_user(L, &port.listeners()[0], TAKE), "", "{address}");
        let taken = Port::bind(port.address(), 1).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
    // One that is taken there already is no port to begin with.
    let taken = TcpListener::bind("[::1]:0").unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, taken.local_addr().unwrap().port()));
    assert_eq!(Port::bind(address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

//
#[test]
fn a_port_that_cannot_be_renewed_is_closed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut port = Port::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let held = port.listeners()[0].try_clone().unwrap();
    let client = TcpStream::connect(port.address()).unwrap();
    let mut accomplice = python(L, &held, BLOCK).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(accomplice.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "blocked\n");
    assert_eq!(port.renew().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert!(!port.is_listening());
    assert_eq!(as_user(L, &held, LISTEN), "", "nor does who has a duplicate");
    let refused = TcpStream::connect(port.address()).unwrap_err().kind();
    assert_eq!(refused, io::ErrorKind::ConnectionRefused);
    // Closed by the client first, so that nothing of it stays.
    drop(client);
    accomplice.kill().unwrap();
    accomplice.wait().unwrap();
    let started = Instant::now();
    while port.renew().is_err() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert!(serves(&port));
}
