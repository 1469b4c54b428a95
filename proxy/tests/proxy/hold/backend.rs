//! A backend that does as it is told: it falls silent, closes its lanes, refuses new ones, and tells what it was sent.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::{InstanceState, Observed, Token};
use testkit::{Namespace, TestProxy, lane_key};

use crate::hostile_backend::correct::{Command, Items};
use crate::hostile_backend::listen;

const FIRST_REQUEST: &[u8] = b"version\r\n";
const TIME_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct ScriptedBackend {
    shared: Arc<Shared>,
    address: String,
    _namespace: Namespace,
}

struct Shared {
    login: String,
    items: Mutex<Items>,
    is_silent: AtomicBool,
    refuses: AtomicBool,
    is_over: AtomicBool,
    lanes: Mutex<Vec<TcpStream>>,
    received: Mutex<Vec<String>>,
}

impl ScriptedBackend {
    /// Starts as the backend of the user of `token` on `address`, and records its route with `generation`.
    pub(super) fn start(proxy: &TestProxy, token: &Token, address: &str, generation: i64) -> Self {
        let namespace = Namespace::create(address);
        let listener = listen(&namespace, address);
        let credential = lane_key(proxy.data_dir.path()).credential(&proxy.instance_id(token), generation);
        let shared = Arc::new(Shared {
            login: credential.login_command(),
            items: Mutex::default(),
            is_silent: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            lanes: Mutex::default(),
            received: Mutex::default(),
        });
        let theirs = shared.clone();
        std::thread::spawn(move || theirs.accept(&listener));
        let backend = Self { shared, address: address.to_owned(), _namespace: namespace };
        backend.record_route(proxy, token, generation);
        backend
    }

    fn record_route(&self, proxy: &TestProxy, token: &Token, generation: i64) {
        record_route(proxy, token, generation, Some(&self.address));
    }

    /// From now on it reads requests and doesn't execute them, or does again.
    pub(super) fn set_silent(&self, is_silent: bool) {
        self.shared.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// From now on it closes each new lane at once, or doesn't any more.
    pub(super) fn set_refusing(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Closes all lanes.
    pub(super) fn close_lanes(&self) {
        for lane in self.shared.lanes.lock().unwrap().drain(..) {
            let _ = lane.shutdown(Shutdown::Both);
        }
    }

    /// Sends bytes on all lanes, whatever was asked.
    pub(super) fn send(&self, bytes: &[u8]) {
        for lane in &mut *self.shared.lanes.lock().unwrap() {
            // The proxy may have closed it.
            let _ = lane.write_all(bytes);
        }
    }

    /// How often it was sent a command.
    pub(super) fn count(&self, command: &str) -> usize {
        self.shared.received.lock().unwrap().iter().filter(|received| *received == command).count()
    }

    /// Waits until it was sent a command so often.
    pub(super) fn wait_for(&self, command: &str, count: usize) {
        let deadline = Instant::now() + TIME_LIMIT;
        while self.count(command) < count {
            let received = self.shared.received.lock().unwrap().clone();
            assert!(Instant::now() < deadline, "no {count} {command:?} in {received:?}");
            std::thread::yield_now();
        }
        assert_eq!(self.count(command), count, "{command}");
    }
}

impl Drop for ScriptedBackend {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.close_lanes();
        // Wakes the listener.
        let _ = TcpStream::connect((self.address.as_str(), 11211));
    }
}

/// Records where the instance of `token` is, or that it is nowhere.
pub(super) fn record_route(proxy: &TestProxy, token: &Token, generation: i64, address: Option<&str>) {
    let observed = Observed {
        state: if address.is_some() { InstanceState::Running } else { InstanceState::Restarting },
        generation,
        address: address.map(str::to_owned),
        container: None,
        version: None,
        message: None,
    };
    proxy.runtime.block_on(proxy.store.record_route(&proxy.instance_id(token), &observed)).unwrap();
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            if !self.refuses.load(Ordering::SeqCst) {
                let shared = self.clone();
                // Ends with its lane.
                std::thread::spawn(move || shared.serve(stream));
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        expect(&mut stream, FIRST_REQUEST)?;
        stream.write_all(b"CLIENT_ERROR unauthenticated\r\n")?;
        expect(&mut stream, self.login.as_bytes())?;
        stream.write_all(b"STORED\r\n")?;
        expect(&mut stream, FIRST_REQUEST)?;
        stream.write_all(b"VERSION 1.6.45\r\n")?;
        self.lanes.lock().unwrap().push(stream.try_clone()?);
        let (mut input, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let mut out = Vec::new();
            while let Some(command) = Command::read(&input) {
                if !self.is_silent.load(Ordering::SeqCst) {
                    self.items.lock().unwrap().answer(&command, &mut out);
                }
                self.received.lock().unwrap().push(command.text());
                let consumed = command.consumed;
                input.drain(..consumed);
            }
            stream.write_all(&out)?;
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                read => input.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> io::Result<()> {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received)?;
    if received == expected { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
