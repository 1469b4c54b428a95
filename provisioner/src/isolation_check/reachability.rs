//! What a container could reach: connections are tried from inside its network namespace, by a thread of this process that
//! enters it for less than a millisecond. No process of the container takes part in that or can change the result: it may not
//! change addresses or routes, and what answers is elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::isolation::Isolation;

/// How long an answer may take. What is filtered is silent; on this machine an answer takes microseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the thread may take.
const THREAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a port is asked for before all count as taken.
const PORT_ATTEMPTS: usize = 3;
/// Targets of one check.
pub(super) const TARGETS_MAX: usize = 16;
/// The type of the kernel's file system of namespaces (`NSFS_MAGIC`).
const NSFS: u64 = 0x6e73_6673;
/// The thread's name.
const THREAD: &str = "isolation";
/// The routes of the network namespace that this thread is in (proc(5)).
const ROUTES: &str = "/proc/thread-self/net/route";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The targets that answered, if only with a refusal.
    pub(super) answered: Vec<SocketAddrV4>,
    /// Whether there are routes over more than its own interface.
    pub(super) has_other_routes: bool,
    /// Whether no port was free to try from, again and again: somebody in there has taken them all.
    pub(super) lacks_ports: bool,
}

impl Reached {
    pub(super) fn is_nothing(&self) -> bool {
        self.answered.is_empty() && !self.has_other_routes && !self.lacks_ports
    }

    /// In words for operators.
    pub(super) fn describe(&self) -> String {
        let answered: Vec<String> = self.answered.iter().map(ToString::to_string).collect();
        let reached = (!answered.is_empty()).then(|| format!("it reached {}", answered.join(", ")));
        let other_routes = self.has_other_routes.then(|| "it has routes over other interfaces".to_owned());
        let no_ports = self.lacks_ports.then(|| "nothing could be tried: it has taken all ports".to_owned());
        let all: Vec<String> = reached.into_iter().chain(other_routes).chain(no_ports).collect();
        format!("from its network {}", all.join(", and "))
    }
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// It was prevented, or nothing has answered.
    NotReached,
    /// No port was free.
    NoPort,
    /// It says nothing about the target, as when this process has no more files.
    Unknown(Errno),
}

impl Outcome {
    /// Of a connection that has failed. Only what says that packets don't get there counts as not reached.
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::CONNREFUSED | Errno::CONNRESET => Self::Answered,
            Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::PERM | Errno::ACCESS | Errno::TIMEDOUT => {
                Self::NotReached
            }
            Errno::ADDRINUSE => Self::NoPort,
            other => Self::Unknown(other),
        }
    }
}

/// A connection that has begun, from inside.
struct Attempt {
    target: SocketAddrV4,
    /// The error, if it failed at once.
    socket: Result<OwnedFd, Errno>,
}

/// Tries to reach targets from the network namespace of a container, whose address is `own`.
///
/// # Errors
/// Why nothing could be tried, in words for operators.
pub(super) async fn reach(
    isolation: &Isolation,
    own: Ipv4Addr,
    mut targets: Vec<SocketAddrV4>,
) -> Result<Reached, String> {
    targets.truncate(TARGETS_MAX);
    let (sender, result) = oneshot::channel();
    let files = [isolation.namespace.clone(), format!("/proc/{}/ns/net", isolation.process)];
    // A thread of its own, which ends: one that is used again would stay in there.
    let spawned = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
        let _ = sender.send(enter(&files).and_then(|()| begin(own, &targets)));
    });
    spawned.map_err(|error| format!("no thread could be started ({error})"))?;
    let begun = timeout(THREAD_TIMEOUT, result).await;
    let (begun, has_other_routes) =
        begun.map_err(|_| "it took too long")?.map_err(|_| "the check ended early")??;
    let outcomes = begun.into_iter().map(|Attempt { target, socket }| async move {
        let outcome = match socket {
            Ok(socket) => outcome(socket).await.unwrap_or_else(Outcome::of),
            Err(errno) => Outcome::of(errno),
        };
        (target, outcome)
    });
    judge(&join_all(outcomes).await, has_other_routes)
}

/// What connections say together. One that says nothing leaves it open, unless others say enough.
fn judge(outcomes: &[(SocketAddrV4, Outcome)], has_other_routes: bool) -> Result<Reached, String> {
    let answered = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Answered);
    let answered = answered.map(|(target, _)| *target).collect();
    let lacks_ports = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::NoPort);
    let reached = Reached { answered, has_other_routes, lacks_ports };
    let unknown = outcomes.iter().find_map(|(target, outcome)| match outcome {
        Outcome::Unknown(errno) => Some(format!("{target} couldn't be tried ({errno})")),
        _ => None,
    });
    unknown.filter(|_| reached.is_nothing()).map_or(Ok(reached), Err)
}

/// Moves this thread into the network namespace that one of these files is, and gives up all capabilities afterwards.
fn enter(files: &[String]) -> Result<(), String> {
    let failed = |error: Errno| format!("capabilities can't be changed ({error})");
    let mut sets = rustix::thread::capabilities(None).map_err(failed)?;
    // `memgate up` leaves them permitted, and in effect only here.
    sets.effective |= sets.permitted & (CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE);
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    let namespace = files.iter().find_map(|file| open_namespace(file));
    let namespace = namespace.ok_or("its network namespace can't be opened: that needs CAP_SYS_PTRACE")?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
        |error| format!("its network namespace can't be entered: that needs CAP_SYS_ADMIN ({error})"),
    )?;
    let none = CapabilitySet::empty();
    (sets.effective, sets.permitted, sets.inheritable) = (none, none, none);
    rustix::thread::set_capabilities(None, sets).map_err(failed)
}

/// Opens the file of a namespace. Docker's file is an empty one where its mounts can't be seen.
fn open_namespace(file: &str) -> Option<File> {
    let file = File::open(file).ok()?;
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type;
    (u64::try_from(kind) == Ok(NSFS)).then_some(file)
}

/// Begins all connections, and looks at the routes. Waits for nothing.
fn begin(own: Ipv4Addr, targets: &[SocketAddrV4]) -> Result<(Vec<Attempt>, bool), String> {
    let wrong = |_| format!("the network namespace doesn't have the container's address {own}");
    // An address that isn't this namespace's can't be bound: proves that it is the container's. So does one without a free
    // port, which the connections will lack or not.
    UdpSocket::bind((own, 0))
        .map(drop)
        .or_else(|error| if error.kind() == io::ErrorKind::AddrInUse { Ok(()) } else { Err(wrong(error)) })?;
    let begun =
        targets.iter().map(|target| Attempt { target: *target, socket: connect(own, *target) }).collect();
    let routes =
        std::fs::read_to_string(ROUTES).map_err(|error| format!("its routes can't be read ({error})"))?;
    let has_other_routes = interfaces(&routes).len() > 1;
    Ok((begun, has_other_routes))
}

/// The interfaces that routes lead to, in the form of `/proc/net/route`.
fn interfaces(routes: &str) -> BTreeSet<&str> {
    routes.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

fn connect(own: Ipv4Addr, target: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let mut attempts = (0..PORT_ATTEMPTS).map(|_| rustix::net::bind(&socket, &SocketAddrV4::new(own, 0)));
    attempts.find(|bound| *bound != Err(Errno::ADDRINUSE)).unwrap_or(Err(Errno::ADDRINUSE))?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// What becomes of a connection that has begun. An acceptance is an answer, and so is a refusal.
async fn outcome(socket: OwnedFd) -> Result<Outcome, Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let stream = tokio::net::TcpStream::from_std(TcpStream::from(socket)).map_err(errno)?;
    if timeout(ANSWER_TIMEOUT, stream.writable()).await.is_err() {
        return Ok(Outcome::NotReached);
    }
    match stream.take_error().map_err(errno)? {
        None => stream.peer_addr().map(|_| Outcome::Answered).map_err(errno),
        Some(error) => Err(errno(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    /// This process's own network namespace stands for a container's that isn't filtered.
    fn of(namespace: &str) -> Isolation {
        Isolation { namespace: namespace.to_owned(), ..Isolation::default() }
    }

    fn own() -> Isolation {
        of("/proc/self/ns/net")
    }

    /// Connections that this side hasn't closed, in the form of `/proc/net/tcp`.
    fn connections_to(target: SocketAddrV4) -> usize {
        let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(target.ip().octets()), target.port());
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let is_open = |line: &&str| {
            let mut columns = line.split_whitespace().skip(2);
            columns.next() == Some(remote.as_str()) && columns.next() == Some("01")
        };
        table.lines().filter(is_open).count()
    }

    /// Threads that look into a namespace.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == THREAD).count()
    }

    //
    #[tokio::test]
    async fn what_accepts_or_refuses_has_answered() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(open) = listener.local_addr().unwrap() else { unreachable!() };
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(closed) = gone.local_addr().unwrap() else { unreachable!() };
        drop(gone);
        let reached = reach(&own(), Ipv4Addr::LOCALHOST, vec![open, closed]).await.unwrap();
        assert_eq!(reached.answered, [open, closed]);
        assert!(!reached.is_nothing());
        for _ in 0..50 {
            reach(&own(), Ipv4Addr::LOCALHOST, vec![open, closed]).await.unwrap();
        }
        assert_eq!(connections_to(open), 0);
        // Other tests of this process have such a thread for a moment, too.
        assert!(threads() < 10, "{}", threads());
    }

    //
    #[test]
    fn what_says_nothing_about_a_target_is_not_silence() {
        let target = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let judged = |errors: &[Errno]| {
            let outcomes: Vec<_> = (1..).map(target).zip(errors.iter().map(|it| Outcome::of(*it))).collect();
            judge(&outcomes, false)
        };
        let silent = [Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::PERM, Errno::ACCESS, Errno::TIMEDOUT];
        assert_eq!(judged(&silent), Ok(Reached::default()));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            let why = judged(&[Errno::HOSTUNREACH, errno]).unwrap_err();
            assert!(why.starts_with("127.0.0.1:2 couldn't be tried ("), "{why}");
            assert_eq!(judged(&[errno, Errno::CONNREFUSED]).unwrap().answered, [target(2)]);
        }
        let judged = judged(&[Errno::ADDRINUSE, Errno::MFILE]).unwrap();
        assert!(judged.lacks_ports && !judged.is_nothing());
    }

    //
    #[tokio::test]
    async fn a_namespace_without_a_free_port_does_not_pass() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let prepare = "ip link set lo up && echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range && echo && read end";
        let mut holder = std::process::Command::new("unshare")
            .args(["--net", "sh", "-c", prepare])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let file = format!("/proc/{}/ns/net", holder.id());
        let closed = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let free = reach(&of(&file), Ipv4Addr::LOCALHOST, vec![closed]).await.unwrap();
        assert!(!free.lacks_ports, "{free:?}");
        let files = [file.clone()];
        let take = move || {
            enter(&files).unwrap();
            let ports = 40_000..=40_001;
            let tcp: Vec<_> =
                ports.clone().map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()).collect();
            let udp: Vec<_> =
                ports.map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap()).collect();
            (tcp, udp)
        };
        let taken = std::thread::spawn(take).join().unwrap();
        let reached = reach(&of(&file), Ipv4Addr::LOCALHOST, vec![closed]).await.unwrap();
        assert!(reached.lacks_ports && !reached.is_nothing(), "{reached:?}");
        drop((taken, holder.stdin.take()));
        holder.wait().unwrap();
    }

    #[test]
    fn routes_lead_to_interfaces() {
        let head = "Iface\tDestination\tGateway\n";
        let own = format!("{head}eth0\t00000000\t0104D50A\neth0\t0004D50A\t00000000\n");
        assert_eq!(interfaces(&own).len(), 1);
        assert_eq!(interfaces(&format!("{own}eth1\t0004D60A\t00000000\n")).len(), 2);
        assert!(interfaces(head).is_empty() && interfaces("").is_empty());
    }

    //
    #[tokio::test]
    async fn what_is_no_namespace_of_the_container_is_refused() {
        let other = Ipv4Addr::new(10, 213, 255, 7);
        let error = reach(&own(), other, vec![]).await.unwrap_err();
        assert!(error.contains("doesn't have the container's address"), "{error}");
        for file in ["/etc/hostname", "/nowhere", ""] {
            let error = reach(&of(file), Ipv4Addr::LOCALHOST, vec![]).await.unwrap_err();
            assert!(error.contains("can't be opened"), "{error}");
        }
        let process = i64::from(std::process::id());
        let without_file = Isolation { process, ..of("/etc/hostname") };
        reach(&without_file, Ipv4Addr::LOCALHOST, vec![]).await.unwrap();
    }
}
