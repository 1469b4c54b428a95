//! Every sequence of a few attempts to log in, and then a command: it is allowed if the last attempt was a
//! good one, and not otherwise. (A bad login after a good one once left the good one standing, in
//! memcached itself: CVE-2013-7239.)

use std::sync::atomic::{AtomicUsize, Ordering};

use store::Token;

use super::door::{Door, pair, sasl, set};
use super::{FAILURE, UNAVAILABLE, statuses};

/// Attempts before the command.
const LONGEST: usize = 4;
/// Connections at once: fewer than a source's places.
const THREADS: usize = 24;
/// A secret; the same each time, so that it counts once.
const WRONG: &str = "abcdefghijklmnopqrstuvwxyz1234567";
/// Failed logins before the door closes.
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

/// All sequences of 1 to `LONGEST` of `kinds`.
fn sequences(kinds: &[Attempt]) -> Vec<Vec<Attempt>> {
    let mut all: Vec<Vec<Attempt>> = kinds.iter().map(|kind| vec![*kind]).collect();
    let mut last = all.clone();
    for _ in 1..LONGEST {
        let longer = |sequence: &Vec<Attempt>| {
            let sequence = sequence.clone();
            kinds.iter().map(move |kind| [&sequence[..], &[*kind]].concat()).collect::<Vec<_>>()
        };
        last = last.iter().flat_map(longer).collect();
        all.extend_from_slice(&last);
    }
    all
}

/// Holds all sequences of `kinds`, many at once.
fn hold(kinds: &[Attempt], trial: impl Fn(&[Attempt]) + Sync) {
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
        Good => sasl(0x21, "PLAIN", &good),
        Bad => sasl(0x21, "PLAIN", &format!("\0{user}\0{WRONG}")),
        Malformed => sasl(0x21, "PLAIN", &format!("{good}\0")),
        UnknownMechanism => sasl(0x21, "CRAM-MD5", &good),
        StepFirst => sasl(0x22, "PLAIN", &good),
        ScramBegun => sasl(0x21, "SCRAM-SHA-256", &format!("n,,n={user},r=abc")),
        Oversize => sasl(0x21, "PLAIN", &format!("{good}{}", "x".repeat(20_000))),
        Other => sasl(0x00, "a", ""),
    }
}

/// What is answered to a sequence and the command behind it.
fn binary_answers(sequence: &[Attempt]) -> Vec<u16> {
    let (mut said, mut failures, mut known) = (Vec::new(), 0, false);
    for attempt in sequence.iter().chain([&Other]) {
        let (status, ends) = match attempt {
            Good => (0, false),
            ScramBegun => (0x21, false),
            Oversize => (0x82, true),
            Other if known => (0x86, false),
            Other => (0x20, true),
            _ => (0x20, false),
        };
        said.push(status);
        // The doorman counts anew for whoever comes back to him.
        failures = if *attempt == Good { 0 } else { failures + usize::from(status == 0x20) };
        known = *attempt == Good || (known && *attempt == Other);
        if ends || failures == FAILURES_MAX {
            break;
        }
    }
    said
}

#[test]
fn binary_attempts_and_then_a_command() {
    let door = Door::open_with(|config| config.scram = true);
    let token = door.sign_up("ann@example.com");
    let kinds = [Good, Bad, Malformed, UnknownMechanism, StepFirst, ScramBegun, Oversize];
    hold(&kinds, |sequence| {
        let attempts = sequence.iter().chain([&Other]).flat_map(|attempt| binary(*attempt, &token));
        let said = statuses(&door.converse(&attempts.collect::<Vec<u8>>()));
        assert_eq!(said, binary_answers(sequence), "{sequence:?}");
    });
}

fn text(attempt: Attempt, token: &Token) -> String {
    match attempt {
        Good => set("x", &pair(token)),
        Bad => set("x", &format!("{} {WRONG}", token.id().username())),
        Malformed => set("x", "nospace"),
        Oversize => set("x", &pair(token).repeat(400)),
        _ => "get a\r\n".to_owned(),
    }
}

fn text_answers(sequence: &[Attempt]) -> String {
    let (mut said, mut failures, mut known) = (String::new(), 0, false);
    for attempt in sequence.iter().chain([&Other]) {
        let (words, ends) = match attempt {
            Good => ("STORED\r\n", false),
            _ if known => (UNAVAILABLE, false),
            Bad => (FAILURE, false),
            Malformed => ("CLIENT_ERROR bad authentication token format\r\n", false),
            Oversize => ("CLIENT_ERROR auth token too long\r\n", true),
            _ => ("CLIENT_ERROR unauthenticated\r\n", false),
        };
        said.push_str(words);
        known |= *attempt == Good;
        failures += usize::from(!known && matches!(attempt, Bad | Malformed));
        if ends || failures == FAILURES_MAX {
            break;
        }
    }
    said
}

#[test]
fn text_attempts_and_then_a_command() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    hold(&[Good, Bad, Malformed, Oversize, Other], |sequence| {
        let attempts: String =
            sequence.iter().chain([&Other]).map(|attempt| text(*attempt, &token)).collect();
        assert_eq!(door.text(&attempts), text_answers(sequence), "{sequence:?}");
    });
}
