//! A transcript held with somebody: the same bytes in, and the same out?

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::dice::Dice;
use super::pieces::pieces;
use super::script::{End, Piece, Transcript, Turn};

/// Whoever hasn't answered until then won't.
const PATIENCE: Duration = Duration::from_secs(5);
/// Whoever hasn't hung up until then won't.
const SILENCE: Duration = Duration::from_millis(60);
/// Pieces of what is sent, at most so long; and for much of it, no more than so many.
const PIECE: usize = 40;
const PIECES: usize = 200;

/// How a transcript is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Turn by turn, each in one piece.
    Whole,
    /// Turn by turn, each in random pieces.
    Split,
    /// All turns without waiting for replies, in random pieces.
    AtOnce,
}

/// Bytes that have names.
pub(crate) type Names = HashMap<String, Vec<u8>>;

/// Somebody to talk to.
pub(crate) struct Partner {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// What logs in, in text and in binary, and how long its answer is. None where none is asked for.
    pub(crate) logins: Option<[(Vec<u8>, usize); 2]>,
    pub(crate) names: Names,
}

impl Partner {
    fn call(&self, transcript: &Transcript) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if let Some(logins) = self.logins.as_ref().filter(|_| !transcript.has("stranger")) {
            let (login, welcome) = &logins[usize::from(transcript.is_binary())];
            stream.write_all(login).unwrap();
            stream.read_exact(&mut vec![0; *welcome]).unwrap();
        }
        stream
    }

    /// Holds it; says what went another way.
    pub(crate) fn play(
        &self,
        transcript: &Transcript,
        manner: Manner,
        dice: &mut Dice,
    ) -> Result<(), String> {
        let mut talk = Talk { stream: self.call(transcript), names: self.names.clone(), said: Vec::new() };
        let outcome = match manner {
            Manner::Whole => talk.by_turns(transcript, None),
            Manner::Split => talk.by_turns(transcript, Some(dice)),
            Manner::AtOnce => talk.at_once(transcript, dice),
        };
        outcome.map_err(|what| format!("{}\n    {} ({manner:?}): {what}", transcript.name, self.name))
    }
}

struct Talk {
    stream: TcpStream,
    names: Names,
    /// What has come and isn't accounted for.
    said: Vec<u8>,
}

impl Talk {
    fn by_turns(&mut self, transcript: &Transcript, mut dice: Option<&mut Dice>) -> Result<(), String> {
        for turn in &transcript.turns {
            self.send(turn, dice.as_deref_mut());
            self.expect(&turn.expected)?;
        }
        match transcript.end {
            End::Closed => {
                while self.read()? {}
                self.nothing_more()
            }
            // Nobody answers a probe before login, or in the middle of something.
            End::Open if transcript.has("stranger") => self.silence(),
            End::Waits => self.silence(),
            End::Open => {
                let probe = super::script::read("probe", probe(transcript.is_binary())).remove(0);
                self.send(&probe.turns[0], None);
                self.expect(&probe.turns[0].expected).map_err(|what| format!("asked once more: {what}"))
            }
        }
    }

    fn at_once(&mut self, transcript: &Transcript, dice: &mut Dice) -> Result<(), String> {
        let sent: Vec<u8> = transcript.turns.iter().flat_map(|turn| self.bytes(&turn.sent)).collect();
        let mut writing = self.stream.try_clone().unwrap();
        let pieces = split(&sent, dice);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The other end may be gone before the last piece.
                let _ = pieces.iter().try_for_each(|piece| writing.write_all(piece));
                let _ = writing.shutdown(Shutdown::Write);
            });
            while self.read()? {}
            Ok::<(), String>(())
        })?;
        let expected: Vec<Piece> = transcript.turns.iter().flat_map(|turn| turn.expected.clone()).collect();
        match matched(&expected, &self.said, &mut self.names) {
            Ok(used) => {
                self.said.drain(..used);
                self.nothing_more()
            }
            Err(why) => Err(self.surprise(&expected, why)),
        }
    }

    fn bytes(&self, pieces: &[Piece]) -> Vec<u8> {
        let named = |name: &str| self.names.get(name).unwrap_or_else(|| panic!("nothing is named {name}"));
        let one = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.clone(),
            Piece::Named(name) => named(name).clone(),
            Piece::Cas(name) => {
                let digits = std::str::from_utf8(named(name)).unwrap();
                digits.parse::<u64>().unwrap().to_be_bytes().into()
            }
            other => panic!("{other:?} can't be sent"),
        };
        pieces.iter().flat_map(one).collect()
    }

    fn send(&mut self, turn: &Turn, dice: Option<&mut Dice>) {
        let bytes = self.bytes(&turn.sent);
        let pieces = match dice {
            Some(dice) => split(&bytes, dice),
            None => vec![&bytes[..]],
        };
        for piece in pieces {
            // The other end may be gone before the last piece: seen when it is read from.
            if self.stream.write_all(piece).is_err() {
                return;
            }
        }
    }

    fn expect(&mut self, expected: &[Piece]) -> Result<(), String> {
        loop {
            match matched(expected, &self.said, &mut self.names) {
                Ok(used) => {
                    self.said.drain(..used);
                    return self.nothing_more();
                }
                Err(Why::Short) if self.read()? => {}
                Err(why) => return Err(self.surprise(expected, why)),
            }
        }
    }

    /// Reads once; `false` at the end.
    fn read(&mut self) -> Result<bool, String> {
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(n) => {
                self.said.extend_from_slice(&buffer[..n]);
                Ok(n > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("nothing more comes after\n{}", show(&self.said)))
            }
            Err(_) => Ok(false),
        }
    }

    fn silence(&mut self) -> Result<(), String> {
        self.stream.set_read_timeout(Some(SILENCE)).unwrap();
        match self.read() {
            Ok(false) => Err("it has closed".to_owned()),
            _ => self.nothing_more(),
        }
    }

    fn nothing_more(&self) -> Result<(), String> {
        if self.said.is_empty() { Ok(()) } else { Err(format!("it says more:\n{}", show(&self.said))) }
    }

    fn surprise(&self, expected: &[Piece], why: Why) -> String {
        let expected: String = expected.iter().map(describe).collect();
        let why = if why == Why::Short { "it ends before its time" } else { "it is another" };
        format!("{why}: expected\n{}\nbut\n{}", quote(&expected), show(&self.said))
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
enum Why {
    /// So far so good.
    Short,
    Other,
}

/// How many bytes of `said` are what was expected. Names that were met first are kept in `names`.
fn matched(expected: &[Piece], said: &[u8], names: &mut Names) -> Result<usize, Why> {
    let (mut at, mut length) = (0, 0);
    let mut met = names.clone();
    for piece in expected {
        let rest = &said[at..];
        let used = match piece {
            Piece::Bytes(bytes) if rest.starts_with(bytes) => bytes.len(),
            Piece::Bytes(bytes) if bytes.starts_with(rest) => return Err(Why::Short),
            Piece::Bytes(_) => return Err(Why::Other),
            Piece::Number | Piece::Named(_) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
                match digits {
                    digits if digits == rest.len() => return Err(Why::Short),
                    0 => return Err(Why::Other),
                    digits => meet(piece, &rest[..digits], &mut met)?,
                }
            }
            Piece::Cas(_) => {
                let bytes: &[u8; 8] = rest.first_chunk().ok_or(Why::Short)?;
                let digits = u64::from_be_bytes(*bytes).to_string();
                meet(piece, digits.as_bytes(), &mut met)?;
                8
            }
            Piece::Stats => statistics(rest)?,
            Piece::Line => rest.iter().position(|byte| *byte == b'\r').ok_or(Why::Short)?,
            Piece::Length => {
                let bytes: &[u8; 4] = rest.first_chunk().ok_or(Why::Short)?;
                length = usize::try_from(u32::from_be_bytes(*bytes)).unwrap();
                4
            }
            Piece::Body if rest.len() < length => return Err(Why::Short),
            Piece::Body => length,
        };
        at += used;
    }
    *names = met;
    Ok(at)
}

/// How long the statistics are that `said` begins with; what follows has come too, or has begun to.
fn statistics(said: &[u8]) -> Result<usize, Why> {
    let mut at = 0;
    loop {
        let rest = &said[at..];
        let header: Option<&[u8; 24]> = rest.first_chunk().filter(|header| header[0] == 0x81);
        at += match header {
            Some(header) if header[2..4] == [0, 0] => return Ok(at),
            Some(header) => {
                let body = u32::from_be_bytes(*header[8..].first_chunk().unwrap());
                24 + usize::try_from(body).unwrap()
            }
            None if rest.starts_with(b"STAT ") => memchr::memchr(b'\n', rest).ok_or(Why::Short)? + 1,
            None if rest.len() < 24 && !rest.starts_with(b"END") => return Err(Why::Short),
            None => return Ok(at),
        };
        if at > said.len() {
            return Err(Why::Short);
        }
    }
}

/// Digits where a name is expected; how many they are.
fn meet(piece: &Piece, digits: &[u8], names: &mut Names) -> Result<usize, Why> {
    let name = match piece {
        Piece::Named(name) => name.as_str(),
        Piece::Cas(name) => name.as_str(),
        _ => "?",
    };
    if name != "?" && names.entry(name.to_owned()).or_insert_with(|| digits.to_vec()) != digits {
        return Err(Why::Other);
    }
    Ok(digits.len())
}

fn split<'a>(bytes: &'a [u8], dice: &mut Dice) -> Vec<&'a [u8]> {
    pieces(bytes, PIECE.max(bytes.len() / PIECES), dice)
}

fn describe(piece: &Piece) -> String {
    match piece {
        Piece::Bytes(bytes) => bytes.escape_ascii().to_string(),
        Piece::Number => "{?}".to_owned(),
        Piece::Named(name) | Piece::Cas(name) => format!("{{{name}}}"),
        Piece::Line | Piece::Body => "{*}".to_owned(),
        Piece::Stats => "{stats}".to_owned(),
        Piece::Length => "{length}".to_owned(),
    }
}

fn show(bytes: &[u8]) -> String {
    quote(&bytes.escape_ascii().to_string())
}

/// Long ones by their ends.
fn quote(text: &str) -> String {
    const ENDS: usize = 400;
    if text.len() <= 2 * ENDS {
        return format!("      {text}");
    }
    format!("      {} ... {} ({} in all)", &text[..ENDS], &text[text.len() - ENDS..], text.len())
}
