//! Every sequence of a few login attempts, followed by a command: the command is allowed only if the last
//! attempt succeeded. (In memcached a failed login once left an earlier success in force: CVE-2013-7239.)

use std::sync::atomic::{AtomicUsize, Ordering};

use store::Token;

use super::connection::{FAILURE, UNAVAILABLE};
use testkit::{TestProxy, binary, text};

/// Login attempts before the command.
const ATTEMPTS_MAX: usize = 4;
/// Connections at once: fewer than the limit of unauthenticated ones per source.
const THREADS: usize = 24;
/// A wrong secret; always the same, so that it counts as one failure.
const WRONG: &str = "abcdefghijklmnopqrstuvwxyz1234567";
/// Failed logins after which the proxy closes.
const FAILURES_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Good,
    Bad,
    Malformed,
    UnknownMechanism,
    StepFirst,
    ScramBegun,
    Oversize,
    Other,
}

use Attempt::{Bad, Good, Malformed, Other, Oversize, ScramBegun, StepFirst, UnknownMechanism};

/// Returns all sequences of 1 to `ATTEMPTS_MAX` elements of `kinds`.
fn sequences(kinds: &[Attempt]) -> Vec<Vec<Attempt>> {
    let mut all: Vec<Vec<Attempt>> = kinds.iter().map(|kind| vec![*kind]).collect();
    let mut last = all.clone();
    for _ in 1..ATTEMPTS_MAX {
        let longer = |sequence: &Vec<Attempt>| {
            let sequence = sequence.clone();
            kinds.iter().map(move |kind| [&sequence[..], &[*kind]].concat()).collect::<Vec<_>>()
        };
        last = last.iter().flat_map(longer).collect();
        all.extend_from_slice(&last);
    }
    all
}

/// Runs `check` for all sequences of `kinds`, many at once.
fn check_all(kinds: &[Attempt], trial: impl Fn(&[Attempt]) + Sync) {
    let (sequences, next) = (sequences(kinds), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(sequence) = sequences.get(next.fetch_add(1, Ordering::Relaxed)) {
                    trial(sequence);
                }
            });
        }
    });
}

fn binary(attempt: Attempt, token: &Token) -> Vec<u8> {
    let (user, secret) = (token.id().username(), token.secret().reveal());
    let good = format!("\0{user}\0{secret}");
    match attempt {
        Good => binary::request(0x21, "PLAIN", &good),
        Bad => binary::request(0x21, "PLAIN", &format!("\0{user}\0{WRONG}")),
        Malformed => binary::request(0x21, "PLAIN", &format!("{good}\0")),
        UnknownMechanism => binary::request(0x21, "CRAM-MD5", &good),
        StepFirst => binary::request(0x22, "PLAIN", &good),
        ScramBegun => binary::request(0x21, "SCRAM-SHA-256", &format!("n,,n={user},r=abc")),
        Oversize => binary::request(0x21, "PLAIN", &format!("{good}{}", "x".repeat(20_000))),
        Other => binary::request(0x00, "a", ""),
    }
}

/// The statuses that a sequence and the command behind it must be answered with.
fn binary_answers(sequence: &[Attempt]) -> Vec<u16> {
    let (mut reply, mut failures, mut known) = (Vec::new(), 0, false);
    for attempt in sequence.iter().chain([&Other]) {
        let (status, ends) = match attempt {
            Good => (0, false),
            ScramBegun => (0x21, false),
            Oversize => (0x82, true),
            Other if known => (0x86, false),
            Other => (0x20, true),
            _ => (0x20, false),
        };
        reply.push(status);
        // A repeated login starts a new count of failures.
        failures = if *attempt == Good { 0 } else { failures + usize::from(status == 0x20) };
        known = *attempt == Good || (known && *attempt == Other);
        if ends || failures == FAILURES_MAX {
            break;
        }
    }
    reply
}

// V-1, B-5.
#[test]
fn binary_command_needs_a_successful_last_login() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let token = proxy.sign_up("ann@example.com");
    let kinds = [Good, Bad, Malformed, UnknownMechanism, StepFirst, ScramBegun, Oversize];
    check_all(&kinds, |sequence| {
        let attempts = sequence.iter().chain([&Other]).flat_map(|attempt| binary(*attempt, &token));
        let reply = binary::statuses(&proxy.exchange(&attempts.collect::<Vec<u8>>()));
        assert_eq!(reply, binary_answers(sequence), "{sequence:?}");
    });
}

fn text(attempt: Attempt, token: &Token) -> String {
    match attempt {
        Good => text::login(token),
        Bad => text::set("x", &format!("{} {WRONG}", token.id().username())),
        Malformed => text::set("x", "nospace"),
        Oversize => text::set("x", &text::credential(token).repeat(400)),
        _ => "get a\r\n".to_owned(),
    }
}

fn text_answers(sequence: &[Attempt]) -> String {
    let (mut reply, mut failures, mut known) = (String::new(), 0, false);
    for attempt in sequence.iter().chain([&Other]) {
        let (words, ends) = match attempt {
            Good => ("STORED\r\n", false),
            _ if known => (UNAVAILABLE, false),
            Bad => (FAILURE, false),
            Malformed => ("CLIENT_ERROR bad authentication token format\r\n", false),
            Oversize => ("CLIENT_ERROR auth token too long\r\n", true),
            _ => ("CLIENT_ERROR unauthenticated\r\n", false),
        };
        reply.push_str(words);
        known |= *attempt == Good;
        failures += usize::from(!known && matches!(attempt, Bad | Malformed));
        if ends || failures == FAILURES_MAX {
            break;
        }
    }
    reply
}

// V-1, B-1.
#[test]
fn text_command_needs_a_successful_login() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    check_all(&[Good, Bad, Malformed, Oversize, Other], |sequence| {
        let attempts: String =
            sequence.iter().chain([&Other]).map(|attempt| text(*attempt, &token)).collect();
        assert_eq!(proxy.exchange_text(&attempts), text_answers(sequence), "{sequence:?}");
    });
}
