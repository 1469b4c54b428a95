//! What a stranger says, and a balancer in front of him: the same steps however it is split, nothing kept beyond a bound, and no
//! credential but one that was sent.

use memchr::memmem;
use store::ScramKeys;

use super::{binary_reply, is_one_line, pieces};
use crate::login::{Credential, Handshake, NONCE_LEN, Proof, Replies, Step};
use crate::protocol::Protocol;
use crate::transport::proxy_protocol::Header;

/// The longest line and the longest payload before login (D-10, S-13).
const LINE_MAX: usize = 2048;
const BODY_MAX: usize = 16_384;
/// The longest header of a balancer that is waited for.
const HEADER_MAX: usize = 16 + 1024;

pub(super) fn check(input: &[u8]) {
    check_header(input);
    let Some(first) = input.first() else { return };
    let protocol = Protocol::detect(*first);
    for scram in [false, true] {
        let mut whole = PendingConnection::new(protocol, scram);
        whole.say(input);
        let mut split = PendingConnection::new(protocol, scram);
        for piece in pieces(input) {
            split.say(piece);
        }
        assert_eq!(whole.events, split.events, "split input means something else");
    }
}

/// A balancer's header means the same whatever comes behind it, and however much of it has come.
fn check_header(input: &[u8]) {
    let whole = Header::read(input);
    if let Ok(Some(header)) = &whole {
        assert!((1..=HEADER_MAX.min(input.len())).contains(&header.consumed));
    }
    let decided = |len: usize| input.get(..len).map(Header::read).filter(|read| *read != Ok(None));
    let first = (0..=input.len().min(HEADER_MAX)).find_map(decided);
    assert_eq!(first.unwrap_or(Ok(None)), whole, "split input means something else");
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Said(Vec<u8>),
    LookedUp(String),
    Attempt { credential: Option<Credential>, replies: Replies },
    Closed(Vec<u8>),
}

/// A authenticator that lets nobody in and never loses patience.
struct PendingConnection {
    protocol: Protocol,
    scram: bool,
    stage: Handshake,
    input: Vec<u8>,
    events: Vec<Event>,
    ended: bool,
}

impl PendingConnection {
    fn new(protocol: Protocol, scram: bool) -> Self {
        let stage = Handshake::new(protocol, scram);
        Self { protocol, scram, stage, input: Vec::new(), events: Vec::new(), ended: false }
    }

    fn say(&mut self, fresh: &[u8]) {
        self.input.extend_from_slice(fresh);
        while !self.ended {
            let consumed = match self.stage.step(&self.input) {
                Step::More => return self.check_kept(),
                Step::Close { reply } => {
                    self.check_words(&reply);
                    self.ended = true;
                    self.events.push(Event::Closed(reply.into_owned()));
                    0
                }
                Step::Reply { consumed, reply } => {
                    self.check_words(&reply);
                    self.events.push(Event::Said(reply.into_owned()));
                    consumed
                }
                Step::LookUp { name, unavailable } => {
                    self.check_words(&unavailable);
                    assert!(self.scram && !name.is_empty() && self.looks_up_once());
                    self.stage.provide_keys(keys(), [7; NONCE_LEN]);
                    self.events.push(Event::LookedUp(name));
                    continue;
                }
                Step::Attempt { consumed, credential, replies } => {
                    self.check_attempt(consumed, credential.as_ref(), &replies);
                    self.events.push(Event::Attempt { credential, replies });
                    consumed
                }
            };
            assert!(self.ended || (1..=self.input.len()).contains(&consumed), "{consumed} bytes consumed");
            self.input.drain(..consumed);
        }
    }

    /// What was looked up is used before anything else is.
    fn looks_up_once(&self) -> bool {
        !matches!(self.events.last(), Some(Event::LookedUp(_)))
    }

    /// What waits for more bytes is as long as a login may be, whatever it declares.
    fn check_kept(&self) {
        let most = match self.protocol {
            Protocol::Text if !self.input.contains(&b'\n') => LINE_MAX,
            Protocol::Text => LINE_MAX + BODY_MAX + 3,
            Protocol::Binary => 24 + BODY_MAX,
        };
        assert!(self.input.len() <= most.min(Handshake::BUFFER_MAX), "{} bytes are kept", self.input.len());
        let declared = self.input.get(8..12).filter(|_| self.protocol == Protocol::Binary);
        let declared = declared.filter(|_| self.input.len() >= 24).and_then(|body| body.try_into().ok());
        let declared = declared.map_or(0, u32::from_be_bytes);
        assert!(
            usize::try_from(declared).is_ok_and(|len| len <= BODY_MAX),
            "{declared} bytes are waited for"
        );
    }

    fn check_attempt(&self, consumed: usize, credential: Option<&Credential>, replies: &Replies) {
        for words in [&replies.success, &replies.denied, &replies.unavailable, &replies.connection_limit] {
            self.check_words(words);
        }
        assert_ne!(replies.success, replies.denied);
        let sent = self.input.get(..consumed).unwrap_or_default();
        let Some(Credential { id, proof }) = credential else { return };
        let has = |what: &str| memmem::find(sent, what.as_bytes()).is_some();
        match proof {
            Proof::Secret(secret) => {
                assert!(has(id.as_str()), "an id that wasn't sent");
                assert!(has(secret.reveal()), "a secret that wasn't sent");
            }
            // Chance would have to find a proof for these keys.
            Proof::Scram(_) => panic!("a proof that nobody can have"),
            Proof::Failed => assert!(self.events.contains(&Event::LookedUp(id.username()))),
        }
    }

    fn check_words(&self, words: &[u8]) {
        let fine = match self.protocol {
            Protocol::Text => is_one_line(words),
            Protocol::Binary => binary_reply(words) == Some(words.len()),
        };
        assert!(words.is_empty() || fine, "we said {:?}", String::from_utf8_lossy(words));
    }
}

/// Of a secret that nobody knows.
fn keys() -> ScramKeys {
    ScramKeys { salt: [1; 16], iterations: 4096, stored_key: [2; 32], server_key: [3; 32] }
}
