//! Checks requests: the same frames however the input is split, bounded buffering, only valid commands
//! forwarded, and no byte of a data block read as a command.

use memchr::{memchr, memchr2, memmem};

use super::command::{encoded, encoded_line, encoded_untagged};
use super::{binary_reply, chunks, hash, is_one_line};
use crate::protocol::request::{
    Command, FlagSet, Limits, Meta, OLDEST_VERSION, ReplyFormat, Request, SHARED_VALUE_MAX, Store, Verb,
};
use crate::protocol::{Parsed, ParsedFrame, Protocol, Then};

/// Item sizes in bytes: small ones, so that short inputs contain items that are too large, and the default, for
/// values that are streamed.
const ITEM_SIZES: [u64; 4] = [100, 400, 400, 1024 * 1024];
const FLAG_SETS: [FlagSet; 3] = [FlagSet::Unknown, FlagSet::Version(OLDEST_VERSION), FlagSet::NEWEST];
const TAG: u64 = 1_234_567_890_123;
/// The longest lines (D-5), and the longest binary header with extras and key, in bytes.
const LINE_MAX: usize = 2048;
const KEYS_LINE_MAX: usize = 1024 * 1024;
const BINARY_HEAD_MAX: usize = 24 + 20 + 250;
/// The text commands with a data block, and where its length stands.
const STORES: [(&[u8], usize); 7] =
    [(b"set", 4), (b"add", 4), (b"replace", 4), (b"append", 4), (b"prepend", 4), (b"cas", 4), (b"ms", 2)];

pub(super) fn check(protocol: Protocol, input: &[u8]) {
    let nth = usize::try_from(hash(input) >> 40).unwrap_or(0);
    let limits = Limits {
        item_size_max: ITEM_SIZES.get(nth % ITEM_SIZES.len()).copied().unwrap_or(0),
        gathered_max: SHARED_VALUE_MAX,
        flags: FLAG_SETS.get(nth % FLAG_SETS.len()).copied().unwrap_or_default(),
        mechanisms: b"PLAIN",
    };
    let mut whole = Reader::new(protocol, limits);
    whole.read(input);
    let mut split = Reader::new(protocol, limits);
    for chunk in chunks(input) {
        split.read(chunk);
    }
    assert_eq!(whole.events, split.events, "split input is parsed differently");
}

/// The effect of a client's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Forwarded { command: Vec<u8>, format: ReplyFormat },
    Streamed { line: Vec<u8>, len: usize },
    Replied(Vec<u8>),
    Closed(Vec<u8>),
    Login,
}

/// Parses as a session does, without a socket.
struct Reader {
    protocol: Protocol,
    limits: Limits,
    input: Vec<u8>,
    swallow: u64,
    /// The event once the data block is swallowed.
    then: Option<Event>,
    /// The reply if no line end follows the data block.
    framing_error: Option<&'static [u8]>,
    events: Vec<Event>,
    ended: bool,
}

impl Reader {
    fn new(protocol: Protocol, limits: Limits) -> Self {
        Self {
            protocol,
            limits,
            input: Vec::new(),
            swallow: 0,
            then: None,
            framing_error: None,
            events: Vec::new(),
            ended: false,
        }
    }

    fn read(&mut self, fresh: &[u8]) {
        let must_be_incomplete =
            !self.input.is_empty() && self.protocol.is_incomplete_line(&self.input, fresh);
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(fresh);
        let mut at = 0;
        while !self.ended {
            at += self.swallow_from(input.get(at..).unwrap_or_default());
            let rest = input.get(at..).unwrap_or_default();
            if rest.is_empty() || self.swallow > 0 {
                break;
            }
            if let Some(framing_error) = self.framing_error.take() {
                if rest.len() < 2 {
                    self.framing_error = Some(framing_error);
                    break;
                }
                if rest.starts_with(b"\r\n") {
                    at += 2;
                    continue;
                }
                self.handle(Parsed::Close(framing_error.into()));
                break;
            }
            let Some(frame) = self.protocol.parse(rest, self.limits) else {
                self.check_kept(rest);
                break;
            };
            assert!(!must_be_incomplete, "an incomplete line was parsed");
            check_frame(self.protocol, rest, &frame);
            at += frame.consumed;
            self.handle(frame.parsed);
        }
        input.drain(..at);
        self.input = input;
    }

    fn swallow_from(&mut self, rest: &[u8]) -> usize {
        let dropped = usize::try_from(self.swallow).unwrap_or(usize::MAX).min(rest.len());
        self.swallow -= u64::try_from(dropped).unwrap_or(0);
        if self.swallow == 0 {
            self.events.extend(self.then.take());
        }
        dropped
    }

    /// An incomplete request is at most as long as a request may be, whatever length it declares.
    fn check_kept(&self, rest: &[u8]) {
        let item = usize::try_from(self.limits.item_size_max).unwrap_or(0).min(SHARED_VALUE_MAX);
        let most = match self.protocol {
            Protocol::Binary => BINARY_HEAD_MAX + item,
            Protocol::Text if [&b"get"[..], b"gat"].iter().any(|verb| rest.starts_with(verb)) => {
                KEYS_LINE_MAX + 2
            }
            Protocol::Text => LINE_MAX + item + 4,
        };
        assert!(rest.len() <= most, "{} bytes are buffered", rest.len());
    }

    fn handle(&mut self, parsed: Parsed<'_>) {
        match parsed {
            Parsed::Request(request) => self.events.push(forward(&request)),
            Parsed::Keys(mut keys) => {
                assert!(keys.next().is_some(), "no key");
                while let Some((request, rest)) = keys.next() {
                    self.events.push(forward(&request));
                    keys.line = rest;
                }
            }
            Parsed::LocalReply(reply) => self.events.push(Event::Replied(reply.into_owned())),
            Parsed::UntaggedCommand(command) => {
                let (command, format) = (encoded_untagged(&command), command.format);
                self.events.push(Event::Forwarded { command, format });
            }
            Parsed::Stream { request, len, framing_error } => {
                let line = encoded_line(&request, len, TAG);
                self.events.push(Event::Streamed { line, len });
                self.swallow = u64::try_from(len).unwrap_or(u64::MAX);
                self.framing_error = framing_error;
            }
            Parsed::NeedsVersion => {
                assert_eq!(self.limits.flags, FlagSet::Unknown, "the version is known");
                self.limits.flags = FlagSet::NEWEST;
            }
            Parsed::Swallow { bytes, then } => {
                self.swallow = bytes;
                self.then = Some(match then {
                    Then::LocalReply(reply) => Event::Replied(reply.into_owned()),
                    Then::Request(request) => forward(&request),
                });
            }
            Parsed::Close(reply) => {
                self.events.push(Event::Closed(reply.into_owned()));
                self.ended = true;
            }
            Parsed::Login => {
                self.events.push(Event::Login);
                self.ended = true;
            }
        }
    }
}

fn forward(request: &Request<'_>) -> Event {
    Event::Forwarded { command: encoded(request, TAG), format: request.format }
}

fn check_frame(protocol: Protocol, rest: &[u8], frame: &ParsedFrame<'_>) {
    assert!(frame.consumed <= rest.len(), "more consumed than the input");
    let swallowed = match &frame.parsed {
        Parsed::Login | Parsed::NeedsVersion => return assert_eq!(frame.consumed, 0),
        Parsed::Close(reply) => return check_local_reply(protocol, rest, reply),
        Parsed::LocalReply(reply) => {
            check_local_reply(protocol, rest, reply);
            0
        }
        Parsed::Swallow { bytes, then } => {
            if let Then::LocalReply(reply) = then {
                check_local_reply(protocol, rest, reply);
            }
            usize::try_from(*bytes).unwrap_or(usize::MAX)
        }
        Parsed::Stream { len, framing_error, .. } => len + framing_error.map_or(0, |_| 2),
        Parsed::Request(request) => {
            let whole = rest.get(..frame.consumed).unwrap_or_default();
            let ends = match (&request.command, protocol) {
                (Command::Store(store), Protocol::Binary) => whole.ends_with(store.value),
                (
                    Command::Store(Store { value, .. }) | Command::Meta(Meta { verb: Verb::Set, value, .. }),
                    _,
                ) => whole.strip_suffix(b"\r\n").is_some_and(|whole| whole.ends_with(value)),
                _ => true,
            };
            assert!(ends, "a value without its end");
            0
        }
        Parsed::Keys(_) | Parsed::UntaggedCommand(_) => 0,
    };
    assert!(frame.consumed > 0, "nothing consumed");
    let taken = frame.consumed.saturating_add(swallowed);
    assert_eq!(Some(taken), end_of(protocol, rest), "the next request begins at another byte");
}

/// Where the request at the front of `rest` ends, its data block included; `None` if the connection must close.
fn end_of(protocol: Protocol, rest: &[u8]) -> Option<usize> {
    if protocol == Protocol::Binary {
        let body: [u8; 4] = rest.get(8..12)?.try_into().ok()?;
        return usize::try_from(u32::from_be_bytes(body)).ok()?.checked_add(24);
    }
    let head = memchr(b'\n', rest)? + 1;
    // A shorter line is no command: memcached counts any line end as two bytes.
    if head < 4 {
        return Some(head);
    }
    let line = rest.get(..head)?.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b" ") || memchr2(0, b'\r', line).is_some() {
        // It is unknown whether a data block follows.
        let stores = STORES.iter().any(|(verb, _)| memmem::find(line, verb).is_some());
        return (!stores).then_some(head);
    }
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    let store = STORES.iter().find(|(verb, _)| words.first() == Some(verb));
    let Some((_, nth)) = store else { return Some(head) };
    let len = std::str::from_utf8(words.get(*nth)?).ok()?;
    let plain = (1..=10).contains(&len.len()) && len.bytes().all(|byte| byte.is_ascii_digit());
    let len: usize = if plain { len.parse().ok()? } else { return None };
    Some(head + len + 2)
}

/// A local reply: empty, one line, or one binary reply to this request.
fn check_local_reply(protocol: Protocol, rest: &[u8], reply: &[u8]) {
    let valid = match protocol {
        Protocol::Text => is_one_line(reply),
        Protocol::Binary => {
            let same = reply.get(1) == rest.get(1) && reply.get(12..16) == rest.get(12..16);
            same && binary_reply(reply) == Some(reply.len())
        }
    };
    assert!(reply.is_empty() || valid, "the proxy replied {:?}", String::from_utf8_lossy(reply));
}
