//! Guessing: whoever goes on waits longer and longer; whoever is right never does.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::Token;

use super::FAILURE;
use super::door::{Door, pair, set};

fn say(door: &Door, login: &str) -> TcpStream {
    let mut stream = door.call();
    stream.write_all(set("x", login).as_bytes()).unwrap();
    stream
}

fn hear(stream: &mut TcpStream, expected: &str) {
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(std::str::from_utf8(&said), Ok(expected));
}

#[test]
fn who_guesses_waits_and_who_is_right_does_not() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let wrong = || format!("{} {}", token.id().username(), Token::generate().secret().reveal());
    // Ten are free, and so is the same one again and again.
    let stale = wrong();
    for login in std::iter::repeat_n(stale, 30).chain((0..9).map(|_| wrong())) {
        hear(&mut say(&door, &login), FAILURE);
    }
    let begun = Instant::now();
    for _ in 0..4 {
        hear(&mut say(&door, &wrong()), FAILURE);
    }
    assert!(begun.elapsed() >= Duration::from_millis(40 + 80 + 160 + 320), "{:?}", begun.elapsed());
    // Each of these waits longer than the one before; the right one behind them doesn't.
    let mut guesses: Vec<TcpStream> = (0..6).map(|_| say(&door, &wrong())).collect();
    hear(&mut say(&door, &pair(&token)), "STORED\r\n");
    let last = guesses.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let early = last.read(&mut [0; 1]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it didn't wait");
    last.set_nonblocking(false).unwrap();
    guesses.iter_mut().for_each(|guess| hear(guess, FAILURE));
}
