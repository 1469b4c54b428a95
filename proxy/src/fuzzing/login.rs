//! Checks logins and PROXY protocol headers: the same steps however the input is split, bounded buffering, and
//! only credentials that were sent.

use memchr::memmem;
use store::ScramKeys;

use super::{binary_reply, chunks, is_one_line};
use crate::login::{Credential, Handshake, NONCE_LEN, Proof, Replies, Step};
use crate::protocol::Protocol;
use crate::transport::proxy_protocol::Header;

/// The longest line and the longest payload before login (D-10, S-13).
const LINE_MAX: usize = 2048;
const BODY_MAX: usize = 16_384;
/// The longest PROXY protocol header, in bytes.
const HEADER_MAX: usize = 16 + 1024;

pub(super) fn check(input: &[u8]) {
    check_header(input);
    let Some(first) = input.first() else { return };
    let protocol = Protocol::detect(*first);
    for scram in [false, true] {
        let mut whole = PendingConnection::new(protocol, scram);
        whole.receive(input);
        let mut split = PendingConnection::new(protocol, scram);
        for chunk in chunks(input) {
            split.receive(chunk);
        }
        assert_eq!(whole.events, split.events, "split input is parsed differently");
    }
}

/// A PROXY protocol header is parsed the same whatever follows it, and however it is split.
fn check_header(input: &[u8]) {
    let whole = Header::read(input);
    if let Ok(Some(header)) = &whole {
        assert!((1..=HEADER_MAX.min(input.len())).contains(&header.consumed));
    }
    let decided = |len: usize| input.get(..len).map(Header::read).filter(|read| *read != Ok(None));
    let first = (0..=input.len().min(HEADER_MAX)).find_map(decided);
    assert_eq!(first.unwrap_or(Ok(None)), whole, "split input is parsed differently");
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Replied(Vec<u8>),
    LookedUp(String),
    Attempt { credential: Option<Credential>, replies: Replies },
    Closed(Vec<u8>),
}

/// An unauthenticated connection without time limits, whose logins never succeed.
struct PendingConnection {
    protocol: Protocol,
    scram: bool,
    handshake: Handshake,
    input: Vec<u8>,
    events: Vec<Event>,
    ended: bool,
}

impl PendingConnection {
    fn new(protocol: Protocol, scram: bool) -> Self {
        let handshake = Handshake::new(protocol, scram);
        Self { protocol, scram, handshake, input: Vec::new(), events: Vec::new(), ended: false }
    }

    fn receive(&mut self, fresh: &[u8]) {
        self.input.extend_from_slice(fresh);
        while !self.ended {
            let consumed = match self.handshake.step(&self.input) {
                Step::More => return self.check_kept(),
                Step::Close { reply } => {
                    self.check_reply(&reply);
                    self.ended = true;
                    self.events.push(Event::Closed(reply.into_owned()));
                    0
                }
                Step::Reply { consumed, reply } => {
                    self.check_reply(&reply);
                    self.events.push(Event::Replied(reply.into_owned()));
                    consumed
                }
                Step::LookUp { name, unavailable } => {
                    self.check_reply(&unavailable);
                    assert!(self.scram && !name.is_empty() && self.looks_up_once());
                    self.handshake.provide_keys(keys(), [7; NONCE_LEN]);
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

    /// Each lookup is used before the next one.
    fn looks_up_once(&self) -> bool {
        !matches!(self.events.last(), Some(Event::LookedUp(_)))
    }

    /// An incomplete login is at most as long as a login may be, whatever length it declares.
    fn check_kept(&self) {
        let most = match self.protocol {
            Protocol::Text if !self.input.contains(&b'\n') => LINE_MAX,
            Protocol::Text => LINE_MAX + BODY_MAX + 3,
            Protocol::Binary => 24 + BODY_MAX,
        };
        assert!(
            self.input.len() <= most.min(Handshake::BUFFER_MAX),
            "{} bytes are buffered",
            self.input.len()
        );
        let declared = self.input.get(8..12).filter(|_| self.protocol == Protocol::Binary);
        let declared = declared.filter(|_| self.input.len() >= 24).and_then(|body| body.try_into().ok());
        let declared = declared.map_or(0, u32::from_be_bytes);
        assert!(usize::try_from(declared).is_ok_and(|len| len <= BODY_MAX), "{declared} bytes are accepted");
    }

    fn check_attempt(&self, consumed: usize, credential: Option<&Credential>, replies: &Replies) {
        for bytes in [&replies.success, &replies.denied, &replies.unavailable, &replies.connection_limit] {
            self.check_reply(bytes);
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
            // A random input can't contain a proof for these keys.
            Proof::Scram(_) => panic!("a valid proof for an unknown secret"),
            Proof::Failed => assert!(self.events.contains(&Event::LookedUp(id.username()))),
        }
    }

    fn check_reply(&self, bytes: &[u8]) {
        let fine = match self.protocol {
            Protocol::Text => is_one_line(bytes),
            Protocol::Binary => binary_reply(bytes) == Some(bytes.len()),
        };
        assert!(bytes.is_empty() || fine, "the proxy replied {:?}", String::from_utf8_lossy(bytes));
    }
}

/// Keys of an unknown secret.
fn keys() -> ScramKeys {
    ScramKeys { salt: [1; 16], iterations: 4096, stored_key: [2; 32], server_key: [3; 32] }
}
