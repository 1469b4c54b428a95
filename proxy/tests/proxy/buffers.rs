//! The memory that unfinished requests and unread replies take: bounded for each cache, and freed after a while.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::{Permissions, Token};

use testkit::{Memcached, TestProxy, binary, is_long_run, raise_file_limit};

const MB: usize = 1024 * 1024;
/// The proxy's budget. A cache may hold a quarter.
const BUDGET_MB: usize = 16;
const STALL_SECONDS: u64 = 3;
/// Generous: several times the proxy's time limits.
const END_TIMEOUT: Duration = Duration::from_secs(120);
const OVER_BUDGET: &str = "SERVER_ERROR too many unfinished requests\r\n";
const TIMED_OUT: &str = "CLIENT_ERROR request timed out\r\n";

fn start() -> TestProxy {
    raise_file_limit();
    TestProxy::start_with(|config| {
        config.buffer_mb = BUDGET_MB;
        config.stall_seconds = STALL_SECONDS;
    })
}

/// The bytes that connections hold, as the proxy reports them.
fn buffered(proxy: &TestProxy) -> usize {
    let metrics = proxy.metrics();
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("memgate_proxy_buffered_bytes "));
    bytes.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

fn ask(stream: &mut TcpStream, request: &str, expected: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(String::from_utf8_lossy(&reply), expected);
}

/// All that still comes until the proxy closes.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(END_TIMEOUT)).unwrap();
    let mut reply = Vec::new();
    // A reset follows what the client has sent and nobody read.
    if let Err(error) = stream.read_to_end(&mut reply) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    reply
}

fn wait_until_released(proxy: &TestProxy) {
    let deadline = Instant::now() + END_TIMEOUT;
    while buffered(proxy) > 0 {
        assert!(Instant::now() < deadline, "{} bytes", buffered(proxy));
        std::thread::yield_now();
    }
}

fn causes(proxy: &TestProxy, token: &Token) -> Vec<&'static str> {
    proxy.wait_for_denials(token, 1).iter().map(|it| it.cause.as_str()).collect()
}

// R-33, P-12, P-13.
#[test]
fn unfinished_requests_of_one_cache_hold_no_more_than_its_share() {
    let proxy = start();
    let count = if is_long_run() { 6000 } else { 500 };
    let (ada, bob) = (proxy.sign_up("ada@example.org"), proxy.sign_up("bob@example.org"));
    let _hers = Memcached::start(&proxy, &ada, "10.214.7.120");
    let _his = Memcached::start(&proxy, &bob, "10.214.7.121");
    let mut idle = proxy.log_in(&ada);
    let mut neighbour = proxy.log_in(&bob);
    let unfinished = [b"set a 0 0 131000\r\n", &vec![b'x'; 130_990][..]].concat();
    let mut most = 0;
    let mut clients: Vec<TcpStream> = (0..count)
        .map(|nth| {
            let mut client = proxy.log_in(&ada);
            // The proxy stops reading some of them, and ends others.
            client.set_nonblocking(true).unwrap();
            let _ = client.write(&unfinished);
            client.set_nonblocking(false).unwrap();
            if nth % 20 == 0 {
                ask(&mut neighbour, "set a 0 0 1\r\n1\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
                most = most.max(buffered(&proxy));
            }
            client
        })
        .collect();
    most = most.max(buffered(&proxy));
    // The share, what each worker hasn't reported, and one value.
    assert!(most < (BUDGET_MB / 4 + 1) * MB, "{most} bytes");
    let (mut ended, mut timed_out) = (0, 0);
    for client in &mut clients {
        let reply = read_to_end(client);
        match std::str::from_utf8(&reply).unwrap() {
            OVER_BUDGET => ended += 1,
            TIMED_OUT => timed_out += 1,
            // It never got a lane, or the reset has overtaken the line.
            "" | "SERVER_ERROR backend timed out\r\n" => {}
            other => panic!("{other:?}"),
        }
    }
    println!(
        "{count} unfinished requests: at most {most} bytes, {ended} over the budget, {timed_out} timed out"
    );
    assert!(timed_out > 0);
    wait_until_released(&proxy);
    // A connection without an unfinished request stays, however long it is idle.
    ask(&mut idle, "get nothing\r\n", "END\r\n");
    ask(&mut neighbour, "get a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n");
    assert!(causes(&proxy, &ada).contains(&"stalled"));
    assert!(proxy.metric("memgate_proxy_denials_total{cause=\"stalled\"}") > 0.0);
}

/// Bytes in the kernel on their way from the proxy to a client.
fn queued_in_kernel(client: &TcpStream) -> usize {
    let hex = |address: std::net::SocketAddr| {
        let std::net::SocketAddr::V4(address) = address else { panic!("{address}") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (proxy, own) = (hex(client.peer_addr().unwrap()), hex(client.local_addr().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut queues = fields.filter(|fields| fields[1] == proxy && fields[2] == own).map(|fields| fields[4]);
    let (sent, _received) = queues.next().unwrap().split_once(':').unwrap();
    usize::from_str_radix(sent, 16).unwrap()
}

// thousands of connections would take the memory that all sockets of the host share.
#[test]
fn replies_that_nobody_reads_take_little_memory_of_the_kernel() {
    let proxy = start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.125");
    let mut client = proxy.log_in(&ada);
    let value = "x".repeat(100_000);
    ask(&mut client, &format!("set big 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
    let gets = 200;
    client.write_all("get big\r\n".repeat(gets).as_bytes()).unwrap();
    let deadline = Instant::now() + END_TIMEOUT;
    while buffered(&proxy) == 0 {
        assert!(Instant::now() < deadline, "the proxy has sent everything");
        std::thread::yield_now();
    }
    // What the client's kernel has taken isn't in the queue. The kernel looks at the limit before it takes some 64 KiB.
    let queued = queued_in_kernel(&client);
    assert!(queued > 0 && queued < 512 * 1024, "{queued} bytes");
    let reply = format!("VALUE big 0 {}\r\n{value}\r\nEND\r\n", value.len());
    let mut read = vec![0; reply.len()];
    for _ in 0..gets {
        client.read_exact(&mut read).unwrap();
        assert!(read == reply.as_bytes());
    }
}

/// A connection that has logged in with the binary protocol, and then sends the header of another login.
fn log_in_again(proxy: &TestProxy, token: &Token) -> TcpStream {
    let login = binary::login(token);
    let mut client = proxy.connect();
    client.write_all(&login).unwrap();
    let mut header = [0; binary::HEADER_LEN];
    client.read_exact(&mut header).unwrap();
    let body = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    client.read_exact(&mut vec![0; usize::try_from(body).unwrap()]).unwrap();
    client.write_all(&login[..binary::HEADER_LEN]).unwrap();
    client
}

//
#[test]
fn connections_that_log_in_again_are_counted_and_ended() {
    let proxy = start();
    let share = BUDGET_MB / 4 * MB;
    let (ada, bob) = (proxy.sign_up("ada@example.org"), proxy.sign_up("bob@example.org"));
    let _hers = Memcached::start(&proxy, &ada, "10.214.7.124");
    let mut neighbour = proxy.log_in(&bob);
    let mut most = 0;
    let mut clients: Vec<TcpStream> = (0..500)
        .map(|_| {
            let client = log_in_again(&proxy, &ada);
            most = most.max(buffered(&proxy));
            client
        })
        .collect();
    // What each worker hasn't reported, and one value.
    assert!(most > share / 2 && most < share + MB, "{most} bytes");
    for client in &mut clients {
        read_to_end(client);
    }
    assert!(causes(&proxy, &ada).contains(&"buffers"));
    wait_until_released(&proxy);
    neighbour.write_all(b"bogus\r\n").unwrap();
    neighbour.read_exact(&mut [0; 7]).unwrap();
}

// R-33, P-12.
#[test]
fn oldest_unfinished_requests_are_ended_first() {
    let proxy = start();
    let ada = proxy.sign_up("ada@example.org");
    // Lines of keys are kept as they come, so that only ending some helps.
    let line = [&b"get "[..], &b"k ".repeat(250_000)].concat();
    let start = |_| {
        let mut client = proxy.log_in(&ada);
        let _ = client.write_all(&line);
        client
    };
    let mut clients: Vec<TcpStream> = (0..20).map(start).collect();
    let reply = read_to_end(&mut clients[0]);
    assert_eq!(String::from_utf8(reply).unwrap(), OVER_BUDGET);
    assert!(buffered(&proxy) < (BUDGET_MB / 4 + 1) * MB);
    assert!(causes(&proxy, &ada).contains(&"buffers"));
    drop(clients);
    wait_until_released(&proxy);
}

// P-12.
#[test]
fn token_that_holds_most_ends_first() {
    raise_file_limit();
    let proxy = TestProxy::start_with(|config| config.buffer_mb = BUDGET_MB);
    let ada = proxy.sign_up("ada@example.org");
    let other = proxy.create_token(&ada, Permissions::ALL);
    let line = [&b"get "[..], &b"k ".repeat(40_000)].concat();
    let start = |token: &Token| {
        let mut client = proxy.log_in(token);
        let _ = client.write_all(&line);
        client
    };
    // The other token's are the oldest, and hold little.
    let mut few: Vec<TcpStream> = (0..3).map(|_| start(&other)).collect();
    let many: Vec<TcpStream> = (0..100).map(|_| start(&ada)).collect();
    assert!(causes(&proxy, &ada).contains(&"buffers"));
    for client in &mut few {
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    drop((few, many));
    wait_until_released(&proxy);
}

// R-33, P-12.
#[test]
fn sessions_that_wait_for_a_dedicated_lane_end_too() {
    raise_file_limit();
    // 32 dedicated lanes for one token.
    let proxy = TestProxy::start_with(|config| {
        config.buffer_mb = BUDGET_MB;
        config.connections = 4096;
    });
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.120");
    let begin = |request: &[u8]| {
        let mut client = proxy.log_in(&ada);
        let _ = client.write_all(request);
        client
    };
    // Each takes a lane, for 5 seconds.
    let storing: Vec<TcpStream> = (0..32).map(|_| begin(b"set long 0 0 200000\r\nbeginning")).collect();
    let keys = [&b"get "[..], &b"k ".repeat(28_000)].concat();
    let mut waiting: Vec<TcpStream> = (0..20)
        .map(|nth| begin(&[if nth % 2 == 0 { &b"stats\r\n"[..] } else { b"flush_all\r\n" }, &keys].concat()))
        .collect();
    let full: Vec<TcpStream> =
        (0..8).map(|_| begin(&[&b"get "[..], &b"k ".repeat(400_000)].concat())).collect();
    for client in &mut waiting[..4] {
        assert_eq!(String::from_utf8(read_to_end(client)).unwrap(), OVER_BUDGET);
    }
    drop((storing, waiting, full));
    wait_until_released(&proxy);
}

//
#[test]
fn full_caches_make_room_for_another() {
    raise_file_limit();
    // Nothing stalls while this test runs.
    let proxy = TestProxy::start_with(|config| config.buffer_mb = BUDGET_MB);
    let line = [&b"get "[..], &b"k ".repeat(50_000)].concat();
    let mut full = Vec::new();
    // Twelve caches that each send more than their share.
    for nth in 0..12 {
        let token = proxy.sign_up(&format!("user{nth}@example.org"));
        for _ in 0..40 {
            let mut client = proxy.log_in(&token);
            // The proxy ends some of them.
            let _ = client.write_all(&line);
            full.push(client);
        }
    }
    let line = [line, b"k ".repeat(150_000), b"\r\n".to_vec()].concat();
    let newcomer = proxy.sign_up("newcomer@example.org");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut client = proxy.log_in(&newcomer);
        client.set_read_timeout(Some(END_TIMEOUT)).unwrap();
        let _ = client.write_all(&line);
        let mut reply = Vec::new();
        let _ = BufReader::new(client).read_until(b'\n', &mut reply);
        if reply == b"SERVER_ERROR backend unavailable\r\n" {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&reply));
    }
    assert!(buffered(&proxy) > BUDGET_MB * MB / 2, "the others still hold much");
    drop(full);
    wait_until_released(&proxy);
}

// R-33, P-13.
#[test]
fn unfinished_request_ends_after_a_time_without_a_byte() {
    let proxy = start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.120");
    let mut idle = proxy.log_in(&ada);
    // A byte now and then is enough.
    let mut slow = proxy.log_in(&ada);
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            let mut sent = 0;
            slow.write_all(b"set big 0 0 100000\r\n").unwrap();
            while !is_over.load(Ordering::Acquire) {
                slow.write_all(b"x").unwrap();
                sent += 1;
                std::thread::sleep(Duration::from_secs(STALL_SECONDS) / 12);
            }
            ask(&mut slow, &format!("{}\r\n", "x".repeat(100_000 - sent)), "STORED\r\n");
        }
    });
    let mut unread = proxy.log_in(&ada);
    ask(&mut unread, &testkit::text::set("long", &"x".repeat(100_000)), "STORED\r\n");
    unread.write_all(&b"get long\r\n".repeat(200)).unwrap();
    let began = Instant::now();
    let halves: [&[u8]; 6] = [
        b"get",
        b"set a 0 0 10\r\n12345",
        b"set a 0 0 200000\r\n12345",
        b"set a 0 0 2000000\r\n12345",
        b"ms a 10\r\n",
        b"bogus\r\nset a 0 0 10\r\n",
    ];
    let mut clients: Vec<TcpStream> = halves
        .iter()
        .map(|half| {
            let mut client = proxy.log_in(&ada);
            client.write_all(half).unwrap();
            client
        })
        .collect();
    let mut binary = proxy.connect();
    let set =
        binary::Request { opcode: 0x01, extras: &[0; 8], key: b"a", value: b"12345", ..Default::default() };
    let set = set.encode();
    binary.write_all(&[&binary::login(&ada), &set[..set.len() - 1]].concat()).unwrap();
    binary.read_exact(&mut [0; 37]).unwrap();
    for (client, half) in clients.iter_mut().zip(halves) {
        let reply = String::from_utf8(read_to_end(client)).unwrap();
        assert_eq!(reply.trim_start_matches("ERROR\r\n"), TIMED_OUT, "{}", half.escape_ascii());
    }
    assert_eq!(binary::statuses(&read_to_end(&mut binary)), [0x86]);
    assert!(began.elapsed() >= Duration::from_secs(STALL_SECONDS) - Duration::from_millis(500));
    // What came with the login counts from then on, although the cache has been in use for longer.
    let mut late = proxy.connect();
    late.write_all(format!("{}set late 0 0 10\r\n12345", testkit::text::login(&ada)).as_bytes()).unwrap();
    ask(&mut late, "", "STORED\r\n");
    std::thread::sleep(Duration::from_secs(STALL_SECONDS) / 3);
    ask(&mut late, "67890\r\n", "STORED\r\n");
    let received = read_to_end(&mut unread).len();
    assert!(received < 200 * 100_000, "all replies were kept for a client that doesn't read");
    is_over.store(true, Ordering::Release);
    writer.join().unwrap();
    ask(&mut idle, "get a\r\n", "END\r\n");
    wait_until_released(&proxy);
    assert_eq!(causes(&proxy, &ada), ["stalled"]);
}
