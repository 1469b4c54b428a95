//! Checks a backend's replies: each is delivered complete, only to the request with the same tag, and however its
//! bytes are split.

#![expect(clippy::expect_used, reason = "a panic is what a fuzzer looks for")]

use std::cell::RefCell;
use std::rc::Rc;

use memchr::{memchr, memmem};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::{binary_reply, chunks, encoded, is_one_line};
use crate::lane::decode::ValueLimits;
use crate::lane::in_flight::InFlight;
use crate::metrics::usage::Usage;
use crate::protocol::request::{
    Command, CommandKind, Fault, FlagSet, ItemMeta, Limits, Meta, Outcome, Reply, ReplyFormat, Request,
    TextFormat, Verb,
};
use crate::protocol::{Parsed, Protocol};
use crate::responses::{Deferred, ResponseQueue, with_data};
use crate::transport::Stream;

/// Values longer than the first limit are deferred; those longer than the second are protocol errors.
const LIMITS: ValueLimits = ValueLimits { max: 300, inline_max: 100 };
/// The longest line of a backend.
const LINE_MAX: usize = 2048;
/// Requests of one conversation, each of a client of its own.
const CLIENTS: usize = 8;
/// Separates the clients' bytes from the backend's in an input.
const SEPARATOR: &[u8] = b"\n====\n";
/// The value of a deferred get once it is requested again.
const AGAIN: &[u8] = b"a value that was put off";
const UNAVAILABLE: &[u8] = b"SERVER_ERROR backend unavailable\r\n";

/// Checks an input of clients' requests, a separator line, and the backend's replies.
pub fn check_replies(input: &[u8]) {
    let Some(at) = memmem::find(input, SEPARATOR) else { return };
    let (asked, said) = input.split_at_checked(at).unwrap_or_default();
    let said = said.get(SEPARATOR.len()..).unwrap_or_default();
    let heard = run_exchange(asked, &[said]);
    for (caller, told) in heard.callers.iter().zip(&heard.told) {
        caller.check(told, said, heard.believed);
    }
    assert!(heard == run_exchange(asked, &chunks(said)), "split replies are delivered differently");
}

/// One client: its requests, in the order of the lane.
#[derive(Debug, PartialEq, Eq)]
struct PendingConnection {
    asked: Vec<SentRequest>,
}

#[derive(Debug, PartialEq, Eq)]
struct SentRequest {
    /// The request's position on the lane, from 0.
    nth: usize,
    tag: u64,
    kind: CommandKind,
    format: ReplyFormat,
    key: Vec<u8>,
    /// The client's own opaque in a meta request.
    opaque: Vec<u8>,
}

/// The outcome of a conversation.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    callers: Vec<PendingConnection>,
    told: Vec<Vec<u8>>,
    /// Replies delivered before the lane closed.
    believed: usize,
}

/// Sends the requests, receives the backend's bytes in these chunks, and closes the lane.
fn run_exchange(asked: &[u8], said: &[&[u8]]) -> Decoded {
    let outboxes = outboxes();
    let mut queue = InFlight::new(LIMITS, Rc::new(Usage::new()));
    let callers = ask(asked, &mut queue, &outboxes);
    let mut touched = Vec::new();
    let mut partial = Vec::new();
    for piece in said {
        partial.extend_from_slice(piece);
        let Ok(consumed) = queue.deliver(&partial, &mut touched) else { break };
        partial.drain(..consumed);
        assert!(partial.len() <= LINE_MAX + LIMITS.inline_max + 2, "{} bytes are kept", partial.len());
    }
    let in_flight = || outboxes.iter().map(|responses| responses.in_flight()).sum::<usize>();
    let believed = callers.iter().map(|caller| caller.asked.len()).sum::<usize>() - in_flight();
    queue.fail(Fault::Unavailable);
    assert_eq!(in_flight(), 0, "a request is still in flight");
    touched.clear();
    outboxes.iter().for_each(replay);
    let told = outboxes.iter().take(callers.len()).map(|responses| responses.unsent_bytes()).collect();
    keep(outboxes);
    Decoded { callers, told, believed }
}

/// Sends the deferred replies; a value that would be requested again is [`AGAIN`].
fn replay(responses: &Rc<ResponseQueue>) {
    while let Some(deferred) = responses.next_deferred() {
        match deferred {
            Deferred::Bytes(words) => responses.write_raw(&words),
            Deferred::Reply { format, kind, context, outcome, data, tokens } => {
                let reply = Reply { outcome: with_data(outcome, &data), tokens: &tokens };
                responses.write_reply(format, kind, &context, &reply);
            }
            Deferred::Refetch { format, kind, context, tokens } => {
                let reply = Reply { outcome: Outcome::Value(ItemMeta::default(), AGAIN), tokens: &tokens };
                responses.write_reply(format, kind, &context, &reply);
            }
        }
    }
}

/// Puts the requests in `input` on the lane.
fn ask(mut input: &[u8], queue: &mut InFlight, outboxes: &[Rc<ResponseQueue>]) -> Vec<PendingConnection> {
    let Some(first) = input.first() else { return Vec::new() };
    let protocol = Protocol::detect(*first);
    let limits = Limits { item_size_max: 400, flags: FlagSet::NEWEST, mechanisms: b"PLAIN" };
    let mut nth = 0;
    let mut callers = Vec::new();
    while let Some(responses) = outboxes.get(callers.len())
        && let Some(frame) = protocol.parse(input, limits)
    {
        let mut asked = Vec::new();
        let mut send = |request: &Request<'_>| {
            let tag = queue.push(request, responses.clone());
            encoded(request, tag);
            let (kind, format, key) = (request.command.kind(), request.format, request.key.bytes.to_vec());
            asked.push(SentRequest { nth, tag, kind, format, key, opaque: opaque(&request.command) });
            nth += 1;
        };
        match frame.parsed {
            Parsed::Request(request) => send(&request),
            Parsed::Keys(mut keys) => {
                while let Some((request, rest)) = keys.next() {
                    send(&request);
                    keys.line = rest;
                }
            }
            Parsed::LocalReply(_) => {}
            _ => break,
        }
        if !asked.is_empty() {
            callers.push(PendingConnection { asked });
        }
        input = input.get(frame.consumed..).unwrap_or_default();
    }
    callers
}

fn opaque(command: &Command<'_>) -> Vec<u8> {
    let Command::Meta(Meta { flags, .. }) = command else { return Vec::new() };
    let mut flags = flags.split(|byte| *byte == b' ');
    flags.find(|flag| flag.starts_with(b"O")).unwrap_or_default().to_vec()
}

impl PendingConnection {
    /// Panics unless the client was `told` exactly what the backend `said` to it.
    fn check(&self, told: &[u8], said: &[u8], believed: usize) {
        let Some(last) = self.asked.last() else { return };
        let mut replies = Vec::new();
        for asked in self.asked.iter().filter(|asked| asked.nth < believed) {
            let reply = BackendReply::nth(said, asked.nth).expect("a reply that nobody gave");
            reply.check(asked);
            replies.push((asked, reply));
        }
        let reply = replies.last().map(|(_, reply)| reply).filter(|_| replies.len() == self.asked.len());
        let failed = reply.is_none() && told == UNAVAILABLE;
        let fine = match last.format {
            ReplyFormat::Text(TextFormat::Value { with_cas, .. }) => {
                let mut expected = Vec::new();
                replies
                    .iter()
                    .for_each(|(asked, reply)| reply.value_line(&asked.key, with_cas, &mut expected));
                expected.extend_from_slice(if reply.is_some() { b"END\r\n" } else { UNAVAILABLE });
                told == expected
            }
            ReplyFormat::Text(TextFormat::Line { noreply: true }) => told.is_empty(),
            ReplyFormat::Text(TextFormat::Line { noreply: false }) => {
                failed || reply.is_some() && is_one_line(told)
            }
            ReplyFormat::Meta(format) => {
                failed || reply.is_some_and(|reply| reply.is_told_as(told, last, format.quiet))
            }
            ReplyFormat::Binary(format) => {
                let head = told.get(1).zip(told.get(12..16));
                let own = head.is_none_or(|head| head == (&format.opcode, &format.opaque));
                let value = reply.filter(|_| last.kind == CommandKind::Get).and_then(BackendReply::value);
                let whole = told.is_empty() || binary_reply(told) == Some(told.len());
                own && whole && value.is_none_or(|value| told.ends_with(value))
            }
        };
        assert!(fine, "{last:?} was told {}", told.escape_ascii());
    }
}

/// One reply of the backend, read without the parser under test.
struct BackendReply<'a> {
    line: &'a [u8],
    data: Option<&'a [u8]>,
}

impl<'a> BackendReply<'a> {
    fn nth(mut said: &'a [u8], nth: usize) -> Option<Self> {
        for _ in 0..nth {
            said = Self::first(said)?.1;
        }
        Self::first(said).map(|(reply, _)| reply)
    }

    fn first(said: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (line, rest) = said.split_at_checked(memchr(b'\n', said)? + 1)?;
        let line = line.strip_suffix(b"\r\n")?;
        let Some(value) = line.strip_prefix(b"VA ") else { return Some((Self { line, data: None }, rest)) };
        let len = number(value.split(|byte| *byte == b' ').next()?)?;
        let len = usize::try_from(len).ok()?;
        if len > LIMITS.inline_max {
            // Its end may be missing.
            return Some((Self { line, data: Some(AGAIN) }, rest.get(len + 2..).unwrap_or_default()));
        }
        let (block, rest) = rest.split_at_checked(len + 2)?;
        Some((Self { line, data: Some(block.strip_suffix(b"\r\n")?) }, rest))
    }

    fn value(&self) -> Option<&'a [u8]> {
        self.data
    }

    fn status(&self) -> &'a [u8] {
        self.line.split(|byte| *byte == b' ').next().unwrap_or_default()
    }

    fn words(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let before = if self.data.is_some() { 2 } else { 1 };
        self.line.split(|byte| *byte == b' ').skip(before).filter(|word| !word.is_empty())
    }

    /// The numbers behind a flag.
    fn flag(&self, name: &[u8]) -> Vec<u64> {
        self.words().filter_map(|word| number(word.strip_prefix(name)?)).collect()
    }

    /// Panics unless this is a valid reply to `asked`.
    fn check(&self, asked: &SentRequest) {
        let verb = match asked.kind {
            CommandKind::Meta { verb, .. } => Some(verb),
            CommandKind::Store(_) => Some(Verb::Set),
            CommandKind::Arithmetic => Some(Verb::Arithmetic),
            CommandKind::Delete => Some(Verb::Delete),
            _ => None,
        };
        let untagged = match self.line {
            b"SERVER_ERROR object too large for cache" => verb == Some(Verb::Set),
            b"SERVER_ERROR out of memory storing object"
            | b"SERVER_ERROR out of memory"
            | b"SERVER_ERROR Out of memory allocating new item" => verb.is_some_and(|verb| verb != Verb::Get),
            b"CLIENT_ERROR cannot increment or decrement non-numeric value" => verb == Some(Verb::Arithmetic),
            line => asked.kind == CommandKind::Version && line.starts_with(b"VERSION"),
        };
        let tagged = self.flag(b"O") == [asked.tag];
        assert!(untagged || tagged, "{} was believed to {asked:?}", self.line.escape_ascii());
    }

    fn value_line(&self, key: &[u8], with_cas: bool, out: &mut Vec<u8>) {
        let Some(data) = self.data else { return };
        let number = |name: &[u8]| self.flag(name).last().copied().filter(|_| data != AGAIN).unwrap_or(0);
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(key);
        out.extend_from_slice(format!(" {} {}", number(b"f"), data.len()).as_bytes());
        if with_cas {
            out.extend_from_slice(format!(" {}", number(b"c")).as_bytes());
        }
        out.extend_from_slice(&[b"\r\n", data, b"\r\n"].concat());
    }

    /// Whether a meta client was `told` this reply with its own opaque.
    fn is_told_as(&self, told: &[u8], asked: &SentRequest, quiet: bool) -> bool {
        let get = matches!(asked.kind, CommandKind::Meta { verb: Verb::Get, .. });
        let status = match self.status() {
            b"EN" | b"NF" if get => b"EN",
            b"EN" | b"NF" => b"NF",
            status => status,
        };
        let hidden = quiet && if get { status == b"EN" } else { matches!(status, b"HD" | b"VA") };
        if asked.kind == CommandKind::Invalidate
            || ![&b"VA"[..], b"HD", b"EN", b"NF", b"NS", b"EX"].contains(&status)
        {
            return is_one_line(told);
        }
        let mut expected = status.to_vec();
        expected.extend(self.data.iter().flat_map(|data| format!(" {}", data.len()).into_bytes()));
        for word in self.words() {
            let word = if word.starts_with(b"O") { asked.opaque.as_slice() } else { word };
            if !word.is_empty() {
                expected.extend([b" ", word].concat());
            }
        }
        expected.extend_from_slice(b"\r\n");
        expected.extend(self.data.iter().flat_map(|data| [data, &b"\r\n"[..]].concat()));
        // The proxy itself adds a key that memcached would send decoded.
        let own_key = [b" k", &*asked.key, b" b"].concat();
        let at = memmem::find(told, &own_key).filter(|_| get);
        let split = at.map(|at| (told.get(..at), told.get(at + own_key.len()..)));
        let with_own_key = split.is_some_and(|(before, behind)| {
            [before.unwrap_or_default(), behind.unwrap_or_default()].concat() == expected
        });
        if hidden { told.is_empty() } else { told == expected || with_own_key }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?.parse().ok()
}

thread_local! {
    /// Connections that nothing is sent on, and the runtime they belong to.
    static STREAMS: RefCell<(Runtime, Vec<Stream>)> = RefCell::new(connect());
}

fn connect() -> (Runtime, Vec<Stream>) {
    let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
    let streams = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            streams.push(Stream::plain(TcpStream::connect(address).await.expect("a connection")));
        }
        streams
    });
    (runtime, streams)
}

fn outboxes() -> Vec<Rc<ResponseQueue>> {
    STREAMS.with_borrow_mut(|(_, streams)| {
        streams.drain(..).map(|stream| ResponseQueue::new(stream, Rc::default())).collect()
    })
}

/// Keeps the streams for the next conversation.
fn keep(outboxes: Vec<Rc<ResponseQueue>>) {
    STREAMS.with_borrow_mut(|(_, streams)| {
        streams.extend(
            outboxes
                .into_iter()
                .map(|responses| responses.into_stream().expect("a request is still in flight")),
        );
    });
}
