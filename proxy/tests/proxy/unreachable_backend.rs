//! A memcached that stops answering, or whose network drops packets, under pipelined large values: each request is
//! answered with an error within the deadline, not after all others, and the connection stays open.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;
use store::Token;
use testkit::{Memcached, TestProxy, binary};

/// Longer than what a shared lane carries, and short enough for the sockets' buffers between memcached and the proxy.
const LONG: usize = 140_000;
const READS: usize = 15;
const WRITES: usize = 5;
/// The deadline of 2 s, how often a lane checks it, and a busy machine.
const TIME_LIMIT: Duration = Duration::from_millis(3_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Text,
    Meta,
    Binary,
}

/// A client that has seen large values, so that it requests them on lanes of its own.
struct Client {
    protocol: Protocol,
    stream: TcpStream,
}

impl Client {
    fn log_in(proxy: &TestProxy, token: &Token, protocol: Protocol) -> Self {
        let stream = if protocol == Protocol::Binary {
            let mut stream = proxy.connect();
            stream.write_all(&binary::login(token)).unwrap();
            stream.read_exact(&mut [0; 24 + 13]).unwrap();
            stream
        } else {
            proxy.log_in(token)
        };
        Self { protocol, stream }
    }

    fn get(&self) -> Vec<u8> {
        match self.protocol {
            Protocol::Text => b"get long\r\n".to_vec(),
            Protocol::Meta => b"mg long v\r\n".to_vec(),
            Protocol::Binary => binary::Request { key: b"long", ..Default::default() }.encode(),
        }
    }

    fn set(&self) -> Vec<u8> {
        let value = vec![b'v'; LONG];
        let line = match self.protocol {
            Protocol::Text => format!("set long 0 0 {LONG}\r\n"),
            Protocol::Meta => format!("ms long {LONG}\r\n"),
            Protocol::Binary => {
                let request = binary::Request {
                    opcode: 0x01,
                    extras: &[0; 8],
                    key: b"long",
                    value: &value,
                    ..Default::default()
                };
                return request.encode();
            }
        };
        [line.as_bytes(), &value, b"\r\n"].concat()
    }

    /// Reads one reply; whether it is the proxy's error. Anything that isn't a whole reply fails.
    fn reply(&mut self) -> bool {
        self.try_reply().unwrap()
    }

    /// The same, but an error if the connection ends.
    fn try_reply(&mut self) -> io::Result<bool> {
        if self.protocol == Protocol::Binary {
            let mut header = [0; 24];
            self.stream.read_exact(&mut header)?;
            let len = u32::from_be_bytes(header[8..12].try_into().unwrap());
            self.stream.read_exact(&mut vec![0; len.try_into().unwrap()])?;
            assert!(header[0] == 0x81 && matches!(header[7], 0 | 0x86), "{header:?}");
            return Ok(header[7] == 0x86);
        }
        let line = line(&mut self.stream)?;
        Ok(match line.as_str() {
            "SERVER_ERROR backend unavailable\r\n" | "SERVER_ERROR backend timed out\r\n" => true,
            "STORED\r\n" | "HD\r\n" => false,
            _ if line.starts_with("VA") => {
                let end: &[u8] = if self.protocol == Protocol::Text { b"\r\nEND\r\n" } else { b"\r\n" };
                let mut value = vec![0; LONG + end.len()];
                self.stream.read_exact(&mut value)?;
                assert!(value.ends_with(end) && value[..LONG].iter().all(|byte| *byte == b'v'));
                false
            }
            _ => panic!("{line:?}"),
        })
    }

    /// Sends `requests` and reads `count` errors, the last one within the time limit.
    fn expect_errors(&mut self, requests: &[u8], count: usize) {
        let begun = Instant::now();
        let mut writing = self.stream.try_clone().unwrap();
        let requests = requests.to_vec();
        let writer = std::thread::spawn(move || writing.write_all(&requests).unwrap());
        for number in 0..count {
            assert!(self.reply(), "{:?} {number}: no error", self.protocol);
            let elapsed = begun.elapsed();
            assert!(elapsed < TIME_LIMIT, "{:?} {number} of {count}: after {elapsed:?}", self.protocol);
        }
        writer.join().unwrap();
    }

    /// Waits until memcached is back for this client.
    fn recover(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let set = self.set();
            self.stream.write_all(&set).unwrap();
            if !self.reply() {
                return;
            }
            assert!(Instant::now() < deadline, "{:?}: memcached isn't back", self.protocol);
        }
    }
}

fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line).unwrap())
}

/// Lets memcached go away and return, and pipelines large values in every protocol and both directions meanwhile.
fn pipelined_large_values_fail_in_time(address: &str, leave: fn(&Memcached), come_back: fn(&Memcached)) {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let memcached = Memcached::start(&proxy, &token, address);
    let all = [Protocol::Text, Protocol::Meta, Protocol::Binary];
    let mut clients: Vec<Client> =
        all.iter().chain(&all).map(|protocol| Client::log_in(&proxy, &token, *protocol)).collect();
    for client in &mut clients {
        let requests = [client.set(), client.get()].concat();
        client.stream.write_all(&requests).unwrap();
        assert!(!client.reply() && !client.reply());
    }
    leave(&memcached);
    std::thread::scope(|scope| {
        for (nth, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                // Twice, since the second time no lane is open.
                for _ in 0..2 {
                    if nth < all.len() {
                        client.expect_errors(&client.get().repeat(READS), READS);
                    } else {
                        client.expect_errors(&client.set().repeat(WRITES), WRITES);
                    }
                }
            });
        }
    });
    come_back(&memcached);
    clients.iter_mut().for_each(Client::recover);
}

// F-2, P-1, P-2.
#[test]
fn frozen_memcached_delays_no_pipelined_large_value() {
    pipelined_large_values_fail_in_time("10.214.7.61", Memcached::freeze, Memcached::thaw);
}

// F-2, P-1, P-2.
#[test]
fn network_that_drops_packets_delays_no_pipelined_large_value() {
    pipelined_large_values_fail_in_time(
        "10.214.7.62",
        |memcached| memcached.cut_network(true),
        |memcached| memcached.cut_network(false),
    );
}

/// The values of the first gets are on their way, and the client reads slowly, so that the other gets wait for lanes of
/// their own. Whether all of them were answered: the freeze may cut a value in two, which ends the connection.
fn gets_behind_a_slow_client_fail_together(proxy: &TestProxy, token: &Token, memcached: &Memcached) -> bool {
    const GETS: usize = 40;
    let mut client = Client::log_in(proxy, token, Protocol::Text);
    SockRef::from(&client.stream).set_recv_buffer_size(64 * 1024).unwrap();
    client.stream.write_all(&client.get().repeat(GETS)).unwrap();
    // Some of the first value has arrived, and nobody reads it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.stream.peek(&mut [0; 1024]).unwrap() < 1024 {
        assert!(Instant::now() < deadline);
    }
    memcached.freeze();
    // Values that had been sent take their time to be read.
    let (mut since, mut values) = (Instant::now(), 0);
    loop {
        match client.try_reply() {
            Ok(false) => (since, values) = (Instant::now(), values + 1),
            Ok(true) => break,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                return false;
            }
        }
    }
    for number in values + 1..GETS {
        assert!(client.reply(), "a value after an error");
        let elapsed = since.elapsed();
        assert!(elapsed < TIME_LIMIT, "get {number} after {values} values: after {elapsed:?}");
    }
    true
}

// F-2, P-1, P-2.
#[test]
fn gets_that_wait_behind_a_slow_client_fail_together() {
    const ATTEMPTS: usize = 10;
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let memcached = Memcached::start(&proxy, &token, "10.214.7.63");
    let mut writer = Client::log_in(&proxy, &token, Protocol::Text);
    let mut attempt = || {
        writer.recover();
        let all_answered = gets_behind_a_slow_client_fail_together(&proxy, &token, &memcached);
        memcached.thaw();
        all_answered
    };
    assert!((0..ATTEMPTS).any(|_| attempt()), "every freeze has cut a value in two");
}

/// All sessions of a token may have fewer lanes than there are sessions: who waits for one must not wait for each dial
/// before it.
// F-2, R-42.
#[test]
fn sessions_that_wait_for_a_lane_fail_with_those_that_have_one() {
    const SESSIONS: usize = 60;
    let proxy = TestProxy::start_with(|config| config.connections = 400);
    let token = proxy.sign_up("ann@example.com");
    let memcached = Memcached::start(&proxy, &token, "10.214.7.64");
    let mut clients: Vec<Client> =
        (0..SESSIONS).map(|_| Client::log_in(&proxy, &token, Protocol::Text)).collect();
    let set = clients[0].set();
    clients[0].stream.write_all(&set).unwrap();
    assert!(!clients[0].reply());
    memcached.freeze();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || client.expect_errors(b"stats\r\nstats\r\n", 2));
        }
    });
    memcached.thaw();
    clients[0].recover();
}
