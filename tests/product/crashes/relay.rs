//! A relay in front of Docker's socket that counts the requests that change something, and kills the provisioner at one of
//! them.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

const DOCKER: &str = "/var/run/docker.sock";
const BUFFER_BYTES: usize = 65_536;

/// When the provisioner is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The request doesn't reach Docker.
    Before,
    /// Docker has got the request, and may not have answered.
    During,
    /// Docker has answered, and the answer doesn't reach the provisioner.
    After,
}

/// A crash that is to happen at a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crash {
    /// Counted from 1.
    pub(super) request: usize,
    pub(super) moment: Moment,
    /// The provisioner's process.
    pub(super) process: Pid,
}

/// A request that changes something.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Such as `POST /containers/create?name=x`, without the API's version.
    pub(super) line: String,
    /// The status of Docker's answer.
    pub(super) status: Option<u16>,
}

/// Relays until the test process ends.
pub(super) struct Relay(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Counts the operations.
    operation: usize,
    requests: Vec<Request>,
    crash: Option<Crash>,
    crashed_at: Option<Instant>,
}

/// Which of an operation's requests one is: a request of an operation may still run when the next operation begins.
#[derive(Clone, Copy)]
struct Number {
    operation: usize,
    /// Counted from 1.
    request: usize,
}

/// A connection, and which of the requests Docker has not answered yet.
struct Connection {
    state: Arc<Mutex<State>>,
    unanswered: Arc<Mutex<Option<Number>>>,
}

impl Request {
    /// What it does, such as `delete volume`.
    pub(super) fn name(&self) -> String {
        let (method, path) = self.line.split_once(' ').unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let kind = path.split('/').nth(1).unwrap_or_default().trim_end_matches('s');
        let last = path.rsplit('/').next().unwrap_or_default();
        let what = if method == "DELETE" { "delete" } else { last };
        let of = if query.contains("-holder") { " (holder)" } else { "" };
        let of = if path.ends_with("-memory") { " (memory)" } else { of };
        format!("{what} {kind}{of}")
    }
}

impl Relay {
    /// Listens at `path`.
    pub(super) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::<Mutex<State>>::default();
        let relay = Self(Arc::clone(&state));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(docker)) = (client, UnixStream::connect(DOCKER)) else { return };
                let connection = Connection { state: Arc::clone(&state), unanswered: Arc::default() };
                connection.relay(client, docker);
            }
        });
        relay
    }

    /// Counts requests from the next one on.
    pub(super) fn begin(&self, crash: Option<Crash>) {
        let mut state = lock(&self.0);
        *state = State { operation: state.operation + 1, crash, ..State::default() };
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.0).requests.clone()
    }

    /// When it has killed the provisioner.
    pub(super) fn crashed_at(&self) -> Option<Instant> {
        lock(&self.0).crashed_at
    }
}

impl Connection {
    fn relay(self, client: UnixStream, docker: UnixStream) {
        let answers = Self { state: Arc::clone(&self.state), unanswered: Arc::clone(&self.unanswered) };
        let (to_client, from_docker) = (client.try_clone().unwrap(), docker.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = answers.relay_answers(from_docker, &to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        std::thread::spawn(move || {
            let _ = self.relay_requests(client, &docker);
            let _ = docker.shutdown(Shutdown::Write);
        });
    }

    fn relay_requests(&self, client: UnixStream, mut docker: &UnixStream) -> std::io::Result<()> {
        let mut client = BufReader::new(client);
        loop {
            let head = read_head(&mut client)?;
            if head.is_empty() {
                return Ok(());
            }
            let number = is_change(&head).then(|| self.note(&head));
            if self.crash_if(number, Moment::Before) {
                return Ok(());
            }
            *lock(&self.unanswered) = number;
            docker.write_all(head.as_bytes())?;
            match Body::of(&head) {
                Body::Bytes(count) => drop(std::io::copy(&mut (&mut client).take(count), &mut docker)?),
                Body::Chunks => relay_chunks(&mut client, docker)?,
                Body::Upgraded => drop(std::io::copy(&mut client, &mut docker)?),
            }
            if self.crash_if(number, Moment::During) {
                return Ok(());
            }
        }
    }

    fn relay_answers(&self, mut docker: UnixStream, mut client: &UnixStream) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = docker.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            // Docker begins an answer once it is done, and a client waits for the answer before its next request.
            let number = lock(&self.unanswered).take();
            if let Some(number) = number {
                let line = String::from_utf8_lossy(&buffer[..count.min(64)]).into_owned();
                let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
                let mut state = lock(&self.state);
                if number.operation == state.operation {
                    state.requests[number.request - 1].status = status;
                }
            }
            if self.crash_if(number, Moment::After) {
                return Ok(());
            }
            client.write_all(&buffer[..count])?;
        }
    }

    /// Notes a request. Returns its number.
    fn note(&self, head: &str) -> Number {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let version =
            path.strip_prefix("/v1.").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        let path = version.unwrap_or(path);
        let mut state = lock(&self.state);
        state.requests.push(Request { line: format!("{method} {path}"), status: None });
        Number { operation: state.operation, request: state.requests.len() }
    }

    /// Kills the provisioner if that is to happen now. Returns whether it has.
    fn crash_if(&self, number: Option<Number>, moment: Moment) -> bool {
        let Some(number) = number else { return false };
        let mut state = lock(&self.state);
        match state.crash {
            Some(crash)
                if (number.operation, number.request, moment)
                    == (state.operation, crash.request, crash.moment) =>
            {
                kill_process(crash.process, Signal::KILL).unwrap();
                state.crash = None;
                state.crashed_at = Some(Instant::now());
                true
            }
            _ => false,
        }
    }
}

/// How a request's body ends.
enum Body {
    Bytes(u64),
    Chunks,
    /// What follows isn't HTTP.
    Upgraded,
}

impl Body {
    fn of(head: &str) -> Self {
        let head = head.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if header("upgrade:").is_some() {
            Self::Upgraded
        } else if header("transfer-encoding:").is_some() {
            Self::Chunks
        } else {
            Self::Bytes(header("content-length:").map_or(0, |length| length.parse().unwrap()))
        }
    }
}

fn is_change(head: &str) -> bool {
    ["POST ", "PUT ", "DELETE "].iter().any(|method| head.starts_with(method))
}

/// Reads up to the empty line; nothing at the end of the connection.
fn read_head(client: &mut BufReader<UnixStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while client.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

fn relay_chunks(client: &mut BufReader<UnixStream>, mut docker: &UnixStream) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        docker.write_all(line.as_bytes())?;
        let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
        std::io::copy(&mut client.take(size + 2), &mut docker)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
