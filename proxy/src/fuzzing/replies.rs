//! Checks a backend's replies: each is delivered complete, and only to the request with the same tag, wherever its bytes
//! are split.

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
    SHARED_VALUE_MAX, TextFormat, Verb,
};
use crate::protocol::{Parsed, Protocol};
use crate::responses::{Deferred, ResponseQueue, with_data};
use crate::transport::Stream;

/// Values longer than the first limit are deferred; those longer than the second are protocol errors.
const LIMITS: ValueLimits = ValueLimits { max: 300, inline_max: 100 };
/// The longest line of a backend.
const LINE_MAX: usize = 2048;
/// Clients of one exchange.
const CLIENTS: usize = 8;
/// Separates the clients' bytes from the backend's in an input.
const SEPARATOR: &[u8] = b"\n====\n";
/// The value of a deferred get once it is requested again.
const REFETCHED: &[u8] = b"a value that was deferred";
const UNAVAILABLE: &[u8] = b"SERVER_ERROR backend unavailable\r\n";

/// Checks an input of clients' requests, a separator line, and the backend's replies.
pub fn check_replies(input: &[u8]) {
    let Some(at) = memmem::find(input, SEPARATOR) else { return };
    let (client_bytes, backend_bytes) = input.split_at_checked(at).unwrap_or_default();
    let backend_bytes = backend_bytes.get(SEPARATOR.len()..).unwrap_or_default();
    let exchange = run_exchange(client_bytes, &[backend_bytes]);
    for (client, received) in exchange.clients.iter().zip(&exchange.received) {
        client.check(received, backend_bytes, exchange.delivered);
    }
    assert!(
        exchange == run_exchange(client_bytes, &chunks(backend_bytes)),
        "split replies are delivered differently"
    );
}

/// One client: its requests, in the order of the lane.
#[derive(Debug, PartialEq, Eq)]
struct Client {
    requests: Vec<SentRequest>,
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

/// The outcome of an exchange.
#[derive(Debug, PartialEq, Eq)]
struct Exchange {
    clients: Vec<Client>,
    received: Vec<Vec<u8>>,
    /// Replies delivered before the lane closed.
    delivered: usize,
}

/// Sends the requests, receives the backend's bytes in these chunks, and closes the lane.
fn run_exchange(client_bytes: &[u8], backend_bytes: &[&[u8]]) -> Exchange {
    let response_queues = response_queues();
    let mut in_flight = InFlight::new(LIMITS, Rc::new(Usage::new()));
    let clients = send_requests(client_bytes, &mut in_flight, &response_queues);
    let mut dirty = Vec::new();
    let mut partial = Vec::new();
    for chunk in backend_bytes {
        partial.extend_from_slice(chunk);
        let Ok(consumed) = in_flight.deliver(&partial, &mut dirty) else { break };
        partial.drain(..consumed);
        assert!(partial.len() <= LINE_MAX + LIMITS.inline_max + 2, "{} bytes are kept", partial.len());
    }
    let unanswered = || response_queues.iter().map(|responses| responses.in_flight()).sum::<usize>();
    let delivered = clients.iter().map(|client| client.requests.len()).sum::<usize>() - unanswered();
    in_flight.fail(Fault::Unavailable);
    assert_eq!(unanswered(), 0, "a request is still in flight");
    dirty.clear();
    response_queues.iter().for_each(replay);
    let received =
        response_queues.iter().take(clients.len()).map(|responses| responses.unsent_bytes()).collect();
    keep_streams(response_queues);
    Exchange { clients, received, delivered }
}

/// Sends the deferred replies; a value that would be requested again is [`REFETCHED`].
fn replay(responses: &Rc<ResponseQueue>) {
    while let Some(deferred) = responses.next_deferred() {
        match deferred {
            Deferred::Bytes(bytes) => responses.write_raw(&bytes),
            Deferred::Reply { format, kind, context, outcome, data, tokens } => {
                let reply = Reply { outcome: with_data(outcome, &data), tokens: &tokens };
                responses.write_reply(format, kind, &context, &reply);
            }
            // Only a lane defers reads, when it fails.
            Deferred::Again(_) => {}
            Deferred::Refetch { format, kind, context, tokens } => {
                let reply =
                    Reply { outcome: Outcome::Value(ItemMeta::default(), REFETCHED), tokens: &tokens };
                responses.write_reply(format, kind, &context, &reply);
            }
        }
    }
}

/// Puts the requests in `input` on the lane.
fn send_requests(
    mut input: &[u8],
    in_flight: &mut InFlight,
    response_queues: &[Rc<ResponseQueue>],
) -> Vec<Client> {
    let Some(first) = input.first() else { return Vec::new() };
    let protocol = Protocol::detect(*first);
    let limits = Limits {
        item_size_max: 400,
        gathered_max: SHARED_VALUE_MAX,
        flags: FlagSet::NEWEST,
        mechanisms: b"PLAIN",
    };
    let mut nth = 0;
    let mut clients = Vec::new();
    while let Some(responses) = response_queues.get(clients.len())
        && let Some(frame) = protocol.parse(input, limits)
    {
        let mut sent = Vec::new();
        let mut send = |request: &Request<'_>| {
            let tag = in_flight.push(request, responses.clone());
            encoded(request, tag);
            let (kind, format, key) = (request.command.kind(), request.format, request.key.bytes.to_vec());
            sent.push(SentRequest { nth, tag, kind, format, key, opaque: opaque(&request.command) });
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
        if !sent.is_empty() {
            clients.push(Client { requests: sent });
        }
        input = input.get(frame.consumed..).unwrap_or_default();
    }
    clients
}

fn opaque(command: &Command<'_>) -> Vec<u8> {
    let Command::Meta(Meta { flags, .. }) = command else { return Vec::new() };
    let mut flags = flags.split(|byte| *byte == b' ');
    flags.find(|flag| flag.starts_with(b"O")).unwrap_or_default().to_vec()
}

impl Client {
    /// Panics unless the client `received` exactly the backend's replies to its requests.
    fn check(&self, received: &[u8], backend_bytes: &[u8], delivered: usize) {
        let Some(last) = self.requests.last() else { return };
        let mut replies = Vec::new();
        for request in self.requests.iter().filter(|request| request.nth < delivered) {
            let reply =
                BackendReply::nth(backend_bytes, request.nth).expect("a reply that the backend did not send");
            reply.check(request);
            replies.push((request, reply));
        }
        let reply = replies.last().map(|(_, reply)| reply).filter(|_| replies.len() == self.requests.len());
        let failed = reply.is_none() && received == UNAVAILABLE;
        let is_right = match last.format {
            ReplyFormat::Text(TextFormat::Value { with_cas, .. }) => {
                let mut expected = Vec::new();
                replies
                    .iter()
                    .for_each(|(request, reply)| reply.value_line(&request.key, with_cas, &mut expected));
                expected.extend_from_slice(if reply.is_some() { b"END\r\n" } else { UNAVAILABLE });
                received == expected
            }
            ReplyFormat::Text(TextFormat::Line { noreply: true }) => received.is_empty(),
            ReplyFormat::Text(TextFormat::Line { noreply: false }) => {
                failed || reply.is_some() && is_one_line(received)
            }
            ReplyFormat::Meta(format) => {
                failed || reply.is_some_and(|reply| reply.is_received_as(received, last, format.quiet))
            }
            ReplyFormat::Binary(format) => {
                let head = received.get(1).zip(received.get(12..16));
                let own = head.is_none_or(|head| head == (&format.opcode, &format.opaque));
                let value = reply.filter(|_| last.kind == CommandKind::Get).and_then(BackendReply::value);
                let whole = received.is_empty() || binary_reply(received) == Some(received.len());
                own && whole && value.is_none_or(|value| received.ends_with(value))
            }
        };
        assert!(is_right, "{last:?} received {}", received.escape_ascii());
    }
}

/// One reply of the backend, read without the parser under test.
struct BackendReply<'a> {
    line: &'a [u8],
    data: Option<&'a [u8]>,
}

impl<'a> BackendReply<'a> {
    fn nth(mut backend_bytes: &'a [u8], nth: usize) -> Option<Self> {
        for _ in 0..nth {
            backend_bytes = Self::first(backend_bytes)?.1;
        }
        Self::first(backend_bytes).map(|(reply, _)| reply)
    }

    fn first(backend_bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (line, rest) = backend_bytes.split_at_checked(memchr(b'\n', backend_bytes)? + 1)?;
        let line = line.strip_suffix(b"\r\n")?;
        let Some(value) = line.strip_prefix(b"VA ") else { return Some((Self { line, data: None }, rest)) };
        let len = number(value.split(|byte| *byte == b' ').next()?)?;
        let len = usize::try_from(len).ok()?;
        if len > LIMITS.inline_max {
            // Its end may be missing.
            return Some((Self { line, data: Some(REFETCHED) }, rest.get(len + 2..).unwrap_or_default()));
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

    fn tokens(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let before = if self.data.is_some() { 2 } else { 1 };
        self.line.split(|byte| *byte == b' ').skip(before).filter(|token| !token.is_empty())
    }

    /// The numbers after a flag.
    fn flag(&self, name: &[u8]) -> Vec<u64> {
        self.tokens().filter_map(|token| number(token.strip_prefix(name)?)).collect()
    }

    /// Panics unless this is a valid reply to `request`.
    fn check(&self, request: &SentRequest) {
        let verb = match request.kind {
            CommandKind::Meta { verb, .. } => Some(verb),
            CommandKind::Store(_) => Some(Verb::Set),
            CommandKind::Arithmetic => Some(Verb::Arithmetic),
            CommandKind::Delete => Some(Verb::Delete),
            _ => None,
        };
        let untagged = match self.line {
            b"SERVER_ERROR object too large for cache" | b"SERVER_ERROR Out of memory during read" => {
                verb == Some(Verb::Set)
            }
            b"SERVER_ERROR out of memory storing object"
            | b"SERVER_ERROR out of memory"
            | b"SERVER_ERROR Out of memory allocating new item" => verb.is_some_and(|verb| verb != Verb::Get),
            b"CLIENT_ERROR cannot increment or decrement non-numeric value" => verb == Some(Verb::Arithmetic),
            line => request.kind == CommandKind::Version && line.starts_with(b"VERSION"),
        };
        let tagged = self.flag(b"O") == [request.tag];
        assert!(untagged || tagged, "{} was delivered to {request:?}", self.line.escape_ascii());
    }

    fn value_line(&self, key: &[u8], with_cas: bool, out: &mut Vec<u8>) {
        let Some(data) = self.data else { return };
        let number = |name: &[u8]| self.flag(name).last().copied().filter(|_| data != REFETCHED).unwrap_or(0);
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(key);
        out.extend_from_slice(format!(" {} {}", number(b"f"), data.len()).as_bytes());
        if with_cas {
            out.extend_from_slice(format!(" {}", number(b"c")).as_bytes());
        }
        out.extend_from_slice(&[b"\r\n", data, b"\r\n"].concat());
    }

    /// Whether a meta client `received` this reply, with its own opaque.
    fn is_received_as(&self, received: &[u8], request: &SentRequest, quiet: bool) -> bool {
        let get = matches!(request.kind, CommandKind::Meta { verb: Verb::Get, .. });
        let status = match self.status() {
            b"EN" | b"NF" if get => b"EN",
            b"EN" | b"NF" => b"NF",
            status => status,
        };
        let hidden = quiet && if get { status == b"EN" } else { matches!(status, b"HD" | b"VA") };
        if request.kind == CommandKind::Invalidate
            || ![&b"VA"[..], b"HD", b"EN", b"NF", b"NS", b"EX"].contains(&status)
        {
            return is_one_line(received);
        }
        let mut expected = status.to_vec();
        expected.extend(self.data.iter().flat_map(|data| format!(" {}", data.len()).into_bytes()));
        for token in self.tokens() {
            let token = if token.starts_with(b"O") { request.opaque.as_slice() } else { token };
            if !token.is_empty() {
                expected.extend([b" ", token].concat());
            }
        }
        expected.extend_from_slice(b"\r\n");
        expected.extend(self.data.iter().flat_map(|data| [data, &b"\r\n"[..]].concat()));
        // The proxy itself adds a key that memcached would send decoded.
        let own_key = [b" k", &*request.key, b" b"].concat();
        let at = memmem::find(received, &own_key).filter(|_| get);
        let split = at.map(|at| (received.get(..at), received.get(at + own_key.len()..)));
        let with_own_key = split.is_some_and(|(before, after)| {
            [before.unwrap_or_default(), after.unwrap_or_default()].concat() == expected
        });
        if hidden { received.is_empty() } else { received == expected || with_own_key }
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

fn response_queues() -> Vec<Rc<ResponseQueue>> {
    STREAMS.with_borrow_mut(|(_, streams)| {
        streams.drain(..).map(|stream| ResponseQueue::new(stream, Rc::default())).collect()
    })
}

/// Keeps the streams for the next exchange.
fn keep_streams(response_queues: Vec<Rc<ResponseQueue>>) {
    STREAMS.with_borrow_mut(|(_, streams)| {
        streams.extend(
            response_queues
                .into_iter()
                .map(|responses| responses.into_stream().expect("a request is still in flight")),
        );
    });
}
