//! Strangers in numbers: they have their places, and nobody who logs in notices them. On its own: other
//! tests measure this process's memory.

#[path = "support/door.rs"]
mod door;

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use door::{Door, pair, sasl, set};

const CROWDED: &str = "SERVER_ERROR too many connections\r\n";
/// Places for strangers of one source.
const PLACES: usize = 64;

/// A door for so many connections.
fn open(connections: usize) -> Door {
    let config = proxy::Config { connections, ..proxy::Config::default() };
    Door::open_in(tempfile::tempdir().unwrap(), config)
}

/// A connection from one of this machine's many loopback addresses.
fn call_from(source: IpAddr, door: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&door.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn metrics(door: &Door) -> String {
    let mut stream = TcpStream::connect(door.config.health).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn loopback(number: usize) -> IpAddr {
    let [_, b, c, d] = u32::try_from(number + 256).unwrap().to_be_bytes();
    Ipv4Addr::new(127, b + 1, c, d).into()
}

/// Tries until it works: connections are accepted when it suits the workers, and shown out after 5 seconds.
fn until<T>(complaint: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{complaint}");
    }
}

fn all(mut stream: TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    said
}

#[test]
fn a_source_has_so_many_strangers_and_any_number_of_clients() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let (source, login) = (loopback(0), set("x", &pair(&token)));
    let call = || call_from(source, door.config.listen).unwrap();
    // Those who log in make room at once.
    let clients: Vec<TcpStream> = (0..2 * PLACES)
        .map(|_| {
            let mut client = call();
            client.write_all(login.as_bytes()).unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
            client
        })
        .collect();
    // And many at once wait for their turn.
    let mut crowd: Vec<TcpStream> = (0..4 * PLACES).map(|_| call()).collect();
    crowd.iter_mut().for_each(|client| client.write_all(login.as_bytes()).unwrap());
    for client in &mut crowd {
        let mut said = [0; 8];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"STORED\r\n");
    }
    let visit = format!("{login}quit\r\n");
    let strangers = until("there is room for more", || {
        let strangers: Vec<TcpStream> = (0..PLACES).map(|_| call()).collect();
        let text = all(call(), visit.as_bytes()) == CROWDED.as_bytes();
        let binary = all(call(), &sasl(0x20, "", "")[..]).get(6..8) == Some(&[0, 0x86]);
        // Before TLS nothing can be said.
        let tls = all(call(), &[0x16, 3, 1]).is_empty();
        (text && binary && tls).then_some(strangers)
    });
    let elsewhere =
        all(call_from(loopback(1), door.config.listen).unwrap(), format!("{login}quit\r\n").as_bytes());
    assert_eq!(elsewhere, b"STORED\r\n");
    assert!(metrics(&door).contains("memgate_proxy_logins_total{outcome=\"overloaded\"}"));
    // Those who were in are in; and when strangers leave there is room again.
    drop(strangers);
    assert_eq!(all(call(), visit.as_bytes()), b"STORED\r\n");
    for mut client in clients {
        client.write_all(b"bogus\r\n").unwrap();
        let mut said = [0; 7];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ERROR\r\n");
    }
}

#[test]
fn strangers_are_a_quarter_of_all_at_most() {
    let door = open(400);
    let token = door.sign_up("ann@example.com");
    let login = set("x", &pair(&token));
    let call = |number: usize| call_from(loopback(number / 50), door.config.listen).unwrap();
    let enter = |number| {
        let mut client: TcpStream = call(number);
        client.write_all(login.as_bytes()).unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        client
    };
    let client = enter(0);
    let visit = format!("{login}quit\r\n");
    let strangers = until("there is room for more", || {
        let strangers: Vec<TcpStream> = (0..100).map(call).collect();
        (all(call(300), visit.as_bytes()) == CROWDED.as_bytes()).then_some(strangers)
    });
    drop((strangers, client));
    until("strangers who are gone take room", || {
        (all(call(300), visit.as_bytes()) == b"STORED\r\n").then_some(())
    });
    // All who may be are in: then there is room for nobody.
    let clients: Vec<TcpStream> = (0..400)
        .map_while(|number| {
            let mut client = call(number);
            client.write_all(login.as_bytes()).unwrap();
            let mut said = [0; 8];
            client.read_exact(&mut said).unwrap();
            (&said == b"STORED\r\n").then_some(client)
        })
        .collect();
    assert!((395..=400).contains(&clients.len()), "{} are in", clients.len());
    assert_eq!(String::from_utf8_lossy(&all(call(300), visit.as_bytes())), CROWDED);
}

#[test]
fn one_source_takes_nobody_elses_place() {
    allow_files();
    let door = open(4_000);
    let token = door.sign_up("ann@example.com");
    let login = set("x", &pair(&token));
    // More than twice as many as there are places for all strangers together, and none says a word.
    let silent: Vec<_> = (0..2_500).map(|_| call_from(loopback(1), door.config.listen).unwrap()).collect();
    for number in 2..40 {
        let mut client = call_from(loopback(number), door.config.listen).unwrap();
        client.write_all(login.as_bytes()).unwrap();
        let mut said = [0; 8];
        client.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), "STORED\r\n");
    }
    drop(silent);
}

/// As many files as may be; how many those are.
fn allow_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Keeps `count` half-open connections from as many sources as it takes, `first` and on.
fn crowd(door: SocketAddr, first: usize, count: usize, standing: &AtomicUsize, stop: &AtomicBool) {
    let mut strangers: VecDeque<TcpStream> = VecDeque::new();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        if strangers.len() >= count {
            // It is shown out after five seconds, and somebody else takes its place.
            let _ = strangers.pop_front().unwrap().read(&mut [0; 64]);
        } else {
            standing.fetch_add(1, Ordering::AcqRel);
        }
        let mut stranger = call_from(loopback(first + number % count.div_ceil(PLACES - 4)), door).unwrap();
        stranger.write_all(b"set x 0 0 100\r\nmg_").unwrap();
        strangers.push_back(stranger);
    }
}

#[test]
fn a_crowd_of_strangers_holds_up_nobody() {
    const THREADS: usize = 4;
    let wanted = if std::env::var_os("MEMGATE_TEST_LONG").is_some() { 20_000 } else { 2_000 };
    let files = allow_files();
    // One file in ten isn't for connections, and of those one in four is a stranger's.
    let many = wanted.min(usize::try_from(files / 10 * 9 / 4).unwrap() - 200);
    let door = open(4 * many + 4_000);
    let token = door.sign_up("ann@example.com");
    let login = set("x", &pair(&token));
    let (standing, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // However this ends: those who stand there wait for it.
        let _stop = StopAtEnd(&stop);
        for thread in 0..THREADS {
            let (standing, stop, listen) = (&standing, &stop, door.config.listen);
            scope.spawn(move || crowd(listen, 1000 * (thread + 1), many / THREADS, standing, stop));
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while standing.load(Ordering::Acquire) < many - THREADS {
            let standing = standing.load(Ordering::Acquire);
            assert!(Instant::now() < deadline, "the crowd doesn't come: {standing} of {many}");
            std::thread::yield_now();
        }
        let mut took: Vec<Duration> = (0..500)
            .map(|_| {
                let begun = Instant::now();
                let mut client = call_from(loopback(9000), door.config.listen).unwrap();
                client.write_all(login.as_bytes()).unwrap();
                let mut said = [0; 8];
                client.read_exact(&mut said).unwrap();
                assert_eq!(&said, b"STORED\r\n");
                begun.elapsed()
            })
            .collect();
        let metrics = metrics(&door);
        let held = metrics.lines().find(|line| line.starts_with("memgate_proxy_connections ")).unwrap();
        took.sort();
        eprintln!("{held} while logins took {:?} (median), {:?} (p99)", took[250], took[495]);
    });
}
