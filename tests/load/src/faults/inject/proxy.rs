//! The proxy is told to stop while clients wait for replies.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::account::Account;
use crate::command::signal;
use crate::error::LoadError;
use crate::faults::fault::{CLOSED, Fault, Loses, Promise};
use crate::faults::scene::Scene;
use crate::login::{Login, LoginForm};

const CONNECTIONS: usize = 40;
/// Values of a pipeline: sizes in bytes, repeated.
const SIZES: [usize; 8] = [10, 1_000, 40, 200_000, 5, 30_000, 300, 90_000];
const PIPELINE: usize = 16;
/// Of a slow reader.
const LARGE_VALUE: usize = 1_000_000;
const LARGE_VALUES: usize = 20;
const BYTES_PER_SECOND: usize = 1_500_000;
const READ_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "term-proxy-pipelines",
        does: "SIGTERM to the proxy, 40 pipelines of 16 values up to 200 KB are open",
        rules: "F-7",
        before: "no reply truncated",
        promise: Promise { recovery: 2.0, errors: CLOSED, loses: Loses::Nothing, told: &[] },
        inject: pipelines,
    },
    Fault {
        name: "term-proxy-slow-reader",
        does: "SIGTERM to the proxy while a client reads 20 MB at 1.5 MB/s",
        rules: "F-32",
        before: "CUT OFF in the 12th value",
        // Until the slow client has everything, no other proxy is started.
        promise: Promise { recovery: 32.0, errors: CLOSED, loses: Loses::Nothing, told: &[] },
        inject: slow_reader,
    },
];

fn connect(scene: &Scene<'_>, account: &Account) -> Result<TcpStream, LoadError> {
    let mut stream = TcpStream::connect(scene.bed.installation.endpoint())?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let login = Login::new(LoginForm::Text, &account.username, &account.password);
    stream.write_all(login.request())?;
    let mut reply = [0; 8];
    stream.read_exact(&mut reply)?;
    Ok(stream)
}

/// Stores values under `name:0` and on.
fn store(stream: &mut TcpStream, name: &str, sizes: &[usize]) -> Result<(), LoadError> {
    for (number, size) in sizes.iter().enumerate() {
        let mut request = format!("set {name}:{number} 0 0 {size}\r\n").into_bytes();
        request.extend(std::iter::repeat_n(b'v', *size));
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request)?;
        let mut reply = [0; 8];
        stream.read_exact(&mut reply)?;
        if &reply != b"STORED\r\n" {
            return Err(LoadError::invalid_run("a value isn't stored"));
        }
    }
    Ok(())
}

/// The bytes of the replies to gets of `name:0` and on.
fn replies(name: &str, sizes: &[usize]) -> Vec<Vec<u8>> {
    let reply = |(number, size): (usize, &usize)| {
        let head = format!("VALUE {name}:{number} 0 {size}\r\n").into_bytes();
        [head, vec![b'v'; *size], b"\r\nEND\r\n".to_vec()].concat()
    };
    sizes.iter().enumerate().map(reply).collect()
}

fn gets(name: &str, count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("get {name}:{number}\r\n").into_bytes()).collect()
}

/// Sends SIGTERM to the proxy; another one is there when this returns.
fn terminate(scene: &mut Scene<'_>) -> Result<u32, LoadError> {
    let pid = scene.bed.installation.role_pid("proxy");
    let pid = pid.ok_or_else(|| LoadError::invalid_run("the proxy doesn't run"))?;
    scene.begin();
    signal(pid, Signal::TERM)?;
    Ok(pid)
}

fn pipelines(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let account = scene.bed.accounts[1].clone();
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(connect(scene, &account)?);
    }
    store(&mut streams[0], "pipeline", &SIZES)?;
    let (expected, requests) = (replies("pipeline", &SIZES).concat(), gets("pipeline", SIZES.len()));
    let rounds = PIPELINE / SIZES.len();
    for stream in &mut streams {
        stream.write_all(&requests.repeat(rounds))?;
    }
    // Each of them has been read by the proxy: the first bytes of its replies are there.
    for stream in &streams {
        stream.peek(&mut [0])?;
    }
    terminate(scene)?;
    let (mut truncated, mut unanswered) = (0, 0);
    for mut stream in streams {
        let (received, end) = read_all(&mut stream, usize::MAX);
        let whole = received.len() / expected.len();
        let is_right = received == expected.repeat(rounds);
        truncated += usize::from(!is_right || end != Ok(()));
        unanswered += rounds.saturating_sub(whole);
    }
    scene.check(truncated == 0, "no reply is truncated, and each connection ends with FIN");
    scene.note(format!(
        "{truncated} of {CONNECTIONS} connections truncated, {unanswered} pipelines unanswered"
    ));
    Ok(())
}

/// Reads to the end, at most so many bytes a second.
fn read_all(stream: &mut TcpStream, bytes_per_second: usize) -> (Vec<u8>, Result<(), ErrorKind>) {
    let (started, mut received) = (Instant::now(), Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let due = Duration::from_secs_f64(received.len() as f64 / bytes_per_second as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        match stream.read(&mut buffer) {
            Ok(0) => return (received, Ok(())),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) => return (received, Err(error.kind())),
        }
    }
}

fn slow_reader(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let account = scene.bed.accounts[1].clone();
    let mut stream = connect(scene, &account)?;
    let sizes = [LARGE_VALUE; LARGE_VALUES];
    store(&mut stream, "large", &sizes)?;
    stream.write_all(&gets("large", LARGE_VALUES))?;
    stream.peek(&mut [0])?;
    let before = terminate(scene)?;
    let (received, end) = read_all(&mut stream, BYTES_PER_SECOND);
    scene.end();
    let all = replies("large", &sizes);
    let length = all[0].len().max(1);
    let is_prefix = all.concat().starts_with(&received);
    // Names with two digits are longer.
    let lengths: Vec<usize> = all
        .iter()
        .scan(0, |sum, reply| {
            *sum += reply.len();
            Some(*sum)
        })
        .collect();
    let at_boundary = received.is_empty() || lengths.contains(&received.len());
    scene.check(is_prefix && at_boundary && end == Ok(()), "the connection ends behind a whole value");
    scene.check(received.len() == all.concat().len(), "all 20 values arrive");
    scene.note(format!("{} of {LARGE_VALUES} values in {:.1} s", received.len() / length, scene.seconds()));
    let installation = &scene.bed.installation;
    let again =
        scene.wait_for(10.0, || Ok(installation.role_pid("proxy").is_some_and(|pid| pid != before)))?;
    scene.check(again, "the proxy is started again");
    Ok(())
}
