//! A backend that replies as memcached does, and now and then injects a fault. After a fault that no
//! memcached could cause, it checks that the proxy closes the lane.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use store::Token;

use super::correct::{Command, Items};
use super::fault::{FAULTS, Fault, Target};
use testkit::{Namespace, Rng, TestProxy, lane_credential, record_route};

/// The port that the proxy connects to.
const PORT: u16 = 11211;
/// One of this many replies is replaced by a fault.
const REPLIES_PER_FAULT: usize = 10_000;
/// One of this many lanes is refused at login.
const LANES_PER_LOGIN_FAULT: usize = 12;
/// What a lane sends before its login.
const FIRST_REQUEST: &[u8] = b"version\r\n";
/// Size of one read.
const CHUNK: usize = 256 * 1024;
/// Interval at which an idle lane is checked.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Time limit for closing a lane after a fault: the proxy's reply timeout, with room for a busy machine.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

pub(crate) struct HostileBackend {
    shared: Arc<Shared>,
    address: String,
    _namespace: Namespace,
}

/// What all lanes to one backend share.
struct Shared {
    login: String,
    items: Mutex<Items>,
    inject_faults: AtomicBool,
    closed: AtomicBool,
    /// Faults injected so far: the index of the next one.
    injected: AtomicUsize,
    lanes: AtomicUsize,
    /// What the proxy should not have done.
    violations: Mutex<Vec<String>>,
}

impl HostileBackend {
    /// Starts as the backend of the user of `token` on `address`.
    pub(crate) fn start(proxy: &TestProxy, token: &Token, address: &str) -> Self {
        let namespace = Namespace::create(address);
        let listener = listen(&namespace, address);
        let shared = Arc::new(Shared {
            login: lane_credential(proxy, token).login_command(),
            items: Mutex::default(),
            inject_faults: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            injected: AtomicUsize::new(0),
            lanes: AtomicUsize::new(0),
            violations: Mutex::default(),
        });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = theirs.clone();
                if shared.closed.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::spawn(move || Lane::serve(stream, shared));
            }
        });
        record_route(proxy, token, address);
        Self { shared, address: address.to_owned(), _namespace: namespace }
    }

    /// Number of faults injected so far.
    pub(crate) fn injected(&self) -> usize {
        self.shared.injected.load(Ordering::Relaxed)
    }

    /// From now on replies correctly.
    pub(crate) fn stop_faults(&self) {
        self.shared.inject_faults.store(false, Ordering::Relaxed);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().unwrap().clone()
    }
}

impl Drop for HostileBackend {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect((self.address.as_str(), PORT));
    }
}

/// Listens in `namespace`, as its memcached would.
pub(crate) fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    let file = std::fs::File::open(format!("/var/run/netns/{}", namespace.name)).unwrap();
    let address = (address.to_owned(), PORT);
    // In a thread of its own, which can't leave the namespace.
    let bound = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    });
    bound.join().unwrap()
}

/// One lane, seen from the backend.
struct Lane {
    stream: TcpStream,
    shared: Arc<Shared>,
    rng: Rng,
    input: Vec<u8>,
    out: Vec<u8>,
    /// A reply held back until after the next one.
    delayed: Vec<u8>,
    last_tag: Option<u64>,
    /// A fault is due, as soon as the next one of the list applies to a request.
    due: bool,
    /// The fault that must close this lane, and the time it was injected.
    fatal: Option<(Fault, Instant)>,
}

impl Lane {
    fn serve(stream: TcpStream, shared: Arc<Shared>) {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(CLOSE_TIMEOUT)).unwrap();
        let number = shared.lanes.fetch_add(1, Ordering::Relaxed);
        let mut lane = Self {
            stream,
            shared: shared.clone(),
            rng: Rng::new(u64::try_from(number).unwrap()),
            input: Vec::new(),
            out: Vec::new(),
            delayed: Vec::new(),
            last_tag: None,
            due: false,
            fatal: None,
        };
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lane.run()));
        if let Err(panic) = served {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            shared.violations.lock().unwrap().push(words.unwrap_or_default());
        }
    }

    /// Runs until the proxy closes the lane, or a fault does.
    fn run(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        self.log_in(&mut chunk)?;
        loop {
            let input = std::mem::take(&mut self.input);
            let mut done = 0;
            while let Some(command) = Command::read(&input[done..]) {
                done += command.consumed;
                self.answer(&command)?;
            }
            self.input = input;
            self.input.drain(..done);
            self.flush()?;
            if let Some((fault, told)) = self.fatal {
                assert!(told.elapsed() < CLOSE_TIMEOUT, "the lane stays open after a fault: {fault:?}");
            }
            self.read(&mut chunk)?;
        }
    }

    /// Reads once; an elapsed timeout is no error.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        match self.stream.read(chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.input.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn log_in(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        while self.input.len() < FIRST_REQUEST.len() {
            self.read(chunk)?;
        }
        assert_eq!(self.input, FIRST_REQUEST, "sent before the backend has refused a request");
        self.input.clear();
        if self.injects_faults() && self.rng.below(LANES_PER_LOGIN_FAULT) == 0 {
            let words = [&b"VERSION 1.6.45\r\n"[..], b"STO", b"", b"STORED\r\n"];
            self.stream.write_all(words[self.rng.below(words.len())])?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.stream.write_all(b"CLIENT_ERROR unauthenticated\r\n")?;
        let login = self.shared.login.clone();
        while self.input.len() < login.len() {
            self.read(chunk)?;
        }
        assert!(self.input.starts_with(login.as_bytes()), "another lane's credential");
        self.input.drain(..login.len());
        if self.injects_faults() && self.rng.below(LANES_PER_LOGIN_FAULT) == 0 {
            let words = [&b"CLIENT_ERROR authentication failure\r\n"[..], b"STO", b"", b"HD O0\r\n\r\n"];
            self.stream.write_all(words[self.rng.below(words.len())])?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.stream.write_all(b"STORED\r\n")
    }

    fn injects_faults(&self) -> bool {
        self.shared.inject_faults.load(Ordering::Relaxed)
    }

    fn answer(&mut self, command: &Command<'_>) -> io::Result<()> {
        let started = self.out.len();
        self.shared.items.lock().unwrap().answer(command, &mut self.out);
        if let Some(tag) = command.tag() {
            assert!(self.last_tag.is_none_or(|last| last < tag), "tag {tag} is not increasing");
            self.last_tag = Some(tag);
            if self.fatal.is_none() && self.injects_faults() {
                self.due |= self.rng.below(REPLIES_PER_FAULT) == 0;
                let target = Target { tag, store: command.is_store(), arithmetic: command.is_arithmetic() };
                let injected = self.shared.injected.load(Ordering::Relaxed);
                let fault = FAULTS[injected % FAULTS.len()];
                if self.due && fault.applies_to(target, &self.out[started..]) {
                    self.due = false;
                    self.shared.injected.fetch_add(1, Ordering::Relaxed);
                    let correct = self.out.split_off(started);
                    return self.inject(fault, target, &correct);
                }
            }
        }
        match self.fatal {
            Some((Fault::Silence, _)) => self.out.clear(),
            Some((Fault::Reordered, _)) => self.out.append(&mut self.delayed),
            _ => {}
        }
        Ok(())
    }

    fn inject(&mut self, fault: Fault, target: Target, correct: &[u8]) -> io::Result<()> {
        if fault.is_fatal() {
            self.fatal = Some((fault, Instant::now()));
        }
        let words = fault.reply(target, correct, &mut self.rng);
        match fault {
            Fault::Delayed => {
                self.flush()?;
                std::thread::sleep(Duration::from_millis(u64::try_from(self.rng.below(300)).unwrap()));
            }
            Fault::Chunked => {
                self.flush()?;
                let longest = 1 + words.len() / 8;
                for piece in words.chunks(1 + self.rng.below(longest)) {
                    self.stream.write_all(piece)?;
                }
                return Ok(());
            }
            Fault::Reordered => self.delayed = correct.to_vec(),
            _ => {}
        }
        self.out.extend(words);
        if fault == Fault::Truncated {
            self.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}
