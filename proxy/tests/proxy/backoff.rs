//! Throttling of failed logins: every further guess waits longer, valid credentials never wait.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::Token;

use super::connection::FAILURE;
use testkit::{TestProxy, text};

fn exchange(proxy: &TestProxy, login: &str) -> TcpStream {
    let mut stream = proxy.connect();
    stream.write_all(text::set("x", login).as_bytes()).unwrap();
    stream
}

fn expect_reply(stream: &mut TcpStream, expected: &str) {
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(std::str::from_utf8(&reply), Ok(expected));
}

//
#[test]
fn guesses_are_delayed_and_valid_logins_are_not() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let wrong = || format!("{} {}", token.id().username(), Token::generate().secret().reveal());
    // Ten failures are free; repeating one secret counts once.
    let stale = wrong();
    for login in std::iter::repeat_n(stale, 30).chain((0..9).map(|_| wrong())) {
        expect_reply(&mut exchange(&proxy, &login), FAILURE);
    }
    let started = Instant::now();
    for _ in 0..4 {
        expect_reply(&mut exchange(&proxy, &wrong()), FAILURE);
    }
    assert!(started.elapsed() >= Duration::from_millis(40 + 80 + 160 + 320), "{:?}", started.elapsed());
    // Each of these waits longer than the one before; the valid login behind them doesn't wait.
    let mut guesses: Vec<TcpStream> = (0..6).map(|_| exchange(&proxy, &wrong())).collect();
    expect_reply(&mut exchange(&proxy, &text::credential(&token)), "STORED\r\n");
    let last = guesses.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let early = last.read(&mut [0; 1]);
    assert!(
        early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "the guess was not delayed"
    );
    last.set_nonblocking(false).unwrap();
    guesses.iter_mut().for_each(|guess| expect_reply(guess, FAILURE));
}
