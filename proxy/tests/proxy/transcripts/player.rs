//! Runs a transcript against a peer and compares the replies.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::script::{Element, End, Exchange, Transcript};
use testkit::{Rng, chunks};

/// Time limit for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a close within this time, the connection counts as open.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(60);
/// Maximum length of a chunk; long requests are split into at most `CHUNKS_MAX` on average.
const CHUNK_MAX: usize = 40;
const CHUNKS_MAX: usize = 200;

/// How a transcript is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Each request in one write, after the replies before it.
    Whole,
    /// Each request in random chunks, after the replies before it.
    Chunked,
    /// All requests in random chunks, without waiting for replies.
    Pipelined,
}

/// Bytes by name.
pub(crate) type Names = HashMap<String, Vec<u8>>;

/// A proxy or memcached to run transcripts against.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Login in text and in binary, and the length of its reply; `None` if no login is needed.
    pub(crate) logins: Option<[(Vec<u8>, usize); 2]>,
    pub(crate) names: Names,
}

impl Peer {
    fn connect(&self, transcript: &Transcript) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        if let Some(logins) = self.logins.as_ref().filter(|_| !transcript.has("unauthenticated")) {
            let (login, welcome) = &logins[usize::from(transcript.is_binary())];
            stream.write_all(login).unwrap();
            stream.read_exact(&mut vec![0; *welcome]).unwrap();
        }
        stream
    }

    /// Runs `transcript`; the error describes the first mismatch.
    pub(crate) fn run(
        &self,
        transcript: &Transcript,
        delivery: Delivery,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let mut session =
            Session { stream: self.connect(transcript), names: self.names.clone(), reply: Vec::new() };
        let outcome = match delivery {
            Delivery::Whole => session.stepwise(transcript, None),
            Delivery::Chunked => session.stepwise(transcript, Some(rng)),
            Delivery::Pipelined => session.pipelined(transcript, rng),
        };
        outcome.map_err(|what| format!("{}\n    {} ({delivery:?}): {what}", transcript.name, self.name))
    }
}

struct Session {
    stream: TcpStream,
    names: Names,
    /// Bytes received and not matched yet.
    reply: Vec<u8>,
}

impl Session {
    fn stepwise(&mut self, transcript: &Transcript, mut rng: Option<&mut Rng>) -> Result<(), String> {
        for exchange in &transcript.exchanges {
            self.send(exchange, rng.as_deref_mut());
            self.expect(&exchange.expected)?;
        }
        match transcript.end {
            End::Closed => {
                while self.read()? {}
                self.nothing_more()
            }
            // Before login, or within a request, a probe has no reply.
            End::Open if transcript.has("unauthenticated") => self.silence(),
            End::Waits => self.silence(),
            End::Open => {
                let probe = super::script::read("probe", probe(transcript.is_binary())).remove(0);
                self.send(&probe.exchanges[0], None);
                self.expect(&probe.exchanges[0].expected)
                    .map_err(|what| format!("after the transcript: {what}"))
            }
        }
    }

    fn pipelined(&mut self, transcript: &Transcript, rng: &mut Rng) -> Result<(), String> {
        let sent: Vec<u8> =
            transcript.exchanges.iter().flat_map(|exchange| self.bytes(&exchange.sent)).collect();
        let mut writing = self.stream.try_clone().unwrap();
        let chunks = split(&sent, rng);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The peer may close before the last chunk.
                let _ = chunks.iter().try_for_each(|chunk| writing.write_all(chunk));
                let _ = writing.shutdown(Shutdown::Write);
            });
            while self.read()? {}
            Ok::<(), String>(())
        })?;
        let expected: Vec<Element> =
            transcript.exchanges.iter().flat_map(|exchange| exchange.expected.clone()).collect();
        match matched(&expected, &self.reply, &mut self.names) {
            Ok(used) => {
                self.reply.drain(..used);
                self.nothing_more()
            }
            Err(why) => Err(self.mismatch(&expected, why)),
        }
    }

    fn bytes(&self, elements: &[Element]) -> Vec<u8> {
        let named = |name: &str| self.names.get(name).unwrap_or_else(|| panic!("nothing is named {name}"));
        let one = |piece: &Element| match piece {
            Element::Bytes(bytes) => bytes.clone(),
            Element::Named(name) => named(name).clone(),
            Element::Cas(name) => {
                let digits = std::str::from_utf8(named(name)).unwrap();
                digits.parse::<u64>().unwrap().to_be_bytes().into()
            }
            other => panic!("{other:?} can't be sent"),
        };
        elements.iter().flat_map(one).collect()
    }

    fn send(&mut self, exchange: &Exchange, rng: Option<&mut Rng>) {
        let bytes = self.bytes(&exchange.sent);
        let chunks = match rng {
            Some(rng) => split(&bytes, rng),
            None => vec![&bytes[..]],
        };
        for chunk in chunks {
            // The peer may close before the last chunk: the next read reports it.
            if self.stream.write_all(chunk).is_err() {
                return;
            }
        }
    }

    fn expect(&mut self, expected: &[Element]) -> Result<(), String> {
        loop {
            match matched(expected, &self.reply, &mut self.names) {
                Ok(used) => {
                    self.reply.drain(..used);
                    return self.nothing_more();
                }
                Err(Mismatch::Short) if self.read()? => {}
                Err(why) => return Err(self.mismatch(expected, why)),
            }
        }
    }

    /// Reads once; `false` at the end of the stream.
    fn read(&mut self) -> Result<bool, String> {
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(n) => {
                self.reply.extend_from_slice(&buffer[..n]);
                Ok(n > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("nothing more comes after\n{}", show(&self.reply)))
            }
            Err(_) => Ok(false),
        }
    }

    fn silence(&mut self) -> Result<(), String> {
        self.stream.set_read_timeout(Some(CLOSE_TIMEOUT)).unwrap();
        match self.read() {
            Ok(false) => Err("it has closed".to_owned()),
            _ => self.nothing_more(),
        }
    }

    fn nothing_more(&self) -> Result<(), String> {
        if self.reply.is_empty() { Ok(()) } else { Err(format!("it says more:\n{}", show(&self.reply))) }
    }

    fn mismatch(&self, expected: &[Element], why: Mismatch) -> String {
        let expected: String = expected.iter().map(describe).collect();
        let why = if why == Mismatch::Short { "it ends before its time" } else { "it is another" };
        format!("{why}: expected\n{}\nbut\n{}", quote(&expected), show(&self.reply))
    }
}

fn probe(is_binary: bool) -> &'static str {
    if is_binary {
        "== probe [binary]\n> get k=nothing-has-this-name\n< get miss\n"
    } else {
        "== probe\n> get nothing-has-this-name\n< END\n"
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch {
    /// Matches so far.
    Short,
    Other,
}

/// Returns how many bytes of `reply` match `expected`. Adds new names to `names`.
fn matched(expected: &[Element], reply: &[u8], names: &mut Names) -> Result<usize, Mismatch> {
    let (mut at, mut length) = (0, 0);
    let mut met = names.clone();
    for element in expected {
        let rest = &reply[at..];
        let used = match element {
            Element::Bytes(bytes) if rest.starts_with(bytes) => bytes.len(),
            Element::Bytes(bytes) if bytes.starts_with(rest) => return Err(Mismatch::Short),
            Element::Bytes(_) => return Err(Mismatch::Other),
            Element::Number | Element::Named(_) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
                match digits {
                    digits if digits == rest.len() => return Err(Mismatch::Short),
                    0 => return Err(Mismatch::Other),
                    digits => meet(element, &rest[..digits], &mut met)?,
                }
            }
            Element::Cas(_) => {
                let bytes: &[u8; 8] = rest.first_chunk().ok_or(Mismatch::Short)?;
                let digits = u64::from_be_bytes(*bytes).to_string();
                meet(element, digits.as_bytes(), &mut met)?;
                8
            }
            Element::Stats => statistics(rest)?,
            Element::Line => rest.iter().position(|byte| *byte == b'\r').ok_or(Mismatch::Short)?,
            Element::Length => {
                let bytes: &[u8; 4] = rest.first_chunk().ok_or(Mismatch::Short)?;
                length = usize::try_from(u32::from_be_bytes(*bytes)).unwrap();
                4
            }
            Element::Body if rest.len() < length => return Err(Mismatch::Short),
            Element::Body => length,
        };
        at += used;
    }
    *names = met;
    Ok(at)
}

/// Returns the length of the statistics at the start of `reply`, once the line behind them has begun to
/// arrive.
fn statistics(reply: &[u8]) -> Result<usize, Mismatch> {
    let mut at = 0;
    loop {
        let rest = &reply[at..];
        let header: Option<&[u8; 24]> = rest.first_chunk().filter(|header| header[0] == 0x81);
        at += match header {
            Some(header) if header[2..4] == [0, 0] => return Ok(at),
            Some(header) => {
                let body = u32::from_be_bytes(*header[8..].first_chunk().unwrap());
                24 + usize::try_from(body).unwrap()
            }
            None if rest.starts_with(b"STAT ") => memchr::memchr(b'\n', rest).ok_or(Mismatch::Short)? + 1,
            None if rest.len() < 24 && !rest.starts_with(b"END") => return Err(Mismatch::Short),
            None => return Ok(at),
        };
        if at > reply.len() {
            return Err(Mismatch::Short);
        }
    }
}

/// Matches `digits` against a name; returns their length.
fn meet(element: &Element, digits: &[u8], names: &mut Names) -> Result<usize, Mismatch> {
    let name = match element {
        Element::Named(name) => name.as_str(),
        Element::Cas(name) => name.as_str(),
        _ => "?",
    };
    if name != "?" && names.entry(name.to_owned()).or_insert_with(|| digits.to_vec()) != digits {
        return Err(Mismatch::Other);
    }
    Ok(digits.len())
}

fn split<'a>(bytes: &'a [u8], rng: &mut Rng) -> Vec<&'a [u8]> {
    chunks(bytes, CHUNK_MAX.max(bytes.len() / CHUNKS_MAX), rng)
}

fn describe(element: &Element) -> String {
    match element {
        Element::Bytes(bytes) => bytes.escape_ascii().to_string(),
        Element::Number => "{?}".to_owned(),
        Element::Named(name) | Element::Cas(name) => format!("{{{name}}}"),
        Element::Line | Element::Body => "{*}".to_owned(),
        Element::Stats => "{stats}".to_owned(),
        Element::Length => "{length}".to_owned(),
    }
}

fn show(bytes: &[u8]) -> String {
    quote(&bytes.escape_ascii().to_string())
}

/// Shortens a long text to its two ends.
fn quote(text: &str) -> String {
    const ENDS: usize = 400;
    if text.len() <= 2 * ENDS {
        return format!("      {text}");
    }
    format!("      {} ... {} ({} in all)", &text[..ENDS], &text[text.len() - ENDS..], text.len())
}
