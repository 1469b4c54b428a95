//! `stats`, `flush_all` and `me`: their answers carry no tag, so nothing else is on the lane.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;

use memchr::memmem;

use super::{DedicatedError, failed};
use crate::lane::decode::ProtocolError;
use crate::lane::dedicated::Own;
use crate::lane::encode;
use crate::protocol::request::{Answer, Ask, Fault, Kind, TextAnswer, UntaggedCommand};
use crate::protocol::{binary, meta};
use crate::responses::UNSENT_MAX;
use crate::session::{Client, WorkerContext};
use crate::tenant::PermissionVersion;

pub(crate) struct Untagged {
    /// What memcached is told.
    line: Vec<u8>,
    expected: Expected,
    answer: Answer,
    /// memcached may tell the key as it is stored, line ends and all: what is left then is nobody's, and the
    /// lane isn't used again.
    names_raw: bool,
}

/// What memcached may say.
#[derive(Clone, Copy)]
enum Expected {
    Statistics,
    Ok,
    Item,
}

/// What a line of the answer was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Last,
    OneOfMany,
}

impl Untagged {
    pub(crate) fn new(alone: &UntaggedCommand<'_>) -> Self {
        let mut line = Vec::new();
        encode::alone(alone, &mut line);
        let expected = match alone.ask {
            Ask::Stats { .. } => Expected::Statistics,
            Ask::FlushAll { .. } => Expected::Ok,
            Ask::Inspect { .. } => Expected::Item,
        };
        let names_raw =
            matches!(alone.ask, Ask::Inspect { key, base64: true } if meta::reply::needs_key_echo(key));
        Self { line, expected, answer: alone.answer, names_raw }
    }

    /// Says one line of memcached's in the caller's protocol.
    fn say(&self, line: &[u8], out: &mut Vec<u8>) -> ControlFlow<ProtocolError, Line> {
        let hidden = self.answer == Answer::Text(TextAnswer::Line { noreply: true });
        match (self.expected, line) {
            (Expected::Statistics, b"END") => {
                match self.answer {
                    Answer::Binary(answer) => binary::reply::statistic(answer, b"", b"", out),
                    _ => out.extend_from_slice(b"END\r\n"),
                }
                ControlFlow::Continue(Line::Last)
            }
            (Expected::Statistics, line) => {
                let Some(rest) = line.strip_prefix(b"STAT ") else {
                    return ControlFlow::Break(ProtocolError::Status);
                };
                match self.answer {
                    Answer::Binary(answer) => {
                        let at = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
                        let (name, value) = rest.split_at_checked(at).unwrap_or_default();
                        binary::reply::statistic(answer, name, value.get(1..).unwrap_or_default(), out);
                    }
                    _ => say_line(line, out),
                }
                ControlFlow::Continue(Line::OneOfMany)
            }
            (Expected::Ok, b"OK") => {
                match self.answer {
                    Answer::Binary(answer) => binary::reply::flushed(answer, out),
                    _ if hidden => {}
                    _ => say_line(line, out),
                }
                ControlFlow::Continue(Line::Last)
            }
            (Expected::Item, line) if line == b"EN" || is_item(line) => {
                say_line(line, out);
                ControlFlow::Continue(Line::Last)
            }
            _ => ControlFlow::Break(ProtocolError::Status),
        }
    }
}

/// Whether all that memcached knows of an item is in this line.
fn is_item(line: &[u8]) -> bool {
    line.starts_with(b"ME ")
        && memmem::find(line, b" exp=").is_some()
        && memmem::find(line, b" size=").is_some()
}

fn say_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

impl Client {
    /// Asks and passes the answer on. An error is the end of the connection.
    pub(super) async fn ask_untagged(
        &mut self,
        ask: &Untagged,
        begun: PermissionVersion,
        context: &WorkerContext<'_>,
    ) -> io::Result<()> {
        let told = Cell::new(false);
        let asked = tokio::select! {
            biased;
            () = self.responses.until_broken() => return Err(io::ErrorKind::BrokenPipe.into()),
            asked = self.ask_on_own_lane((ask, begun), context, &told) => asked,
        };
        self.tenant.usage.other();
        match asked {
            Ok(()) => Ok(()),
            Err(DedicatedError::Lane(fault)) if !told.get() => {
                self.responses.speak(ask.answer, Kind::Version, b"", &failed(fault));
                Ok(())
            }
            Err(DedicatedError::Lane(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(DedicatedError::Client(error)) => Err(error),
        }
    }

    async fn ask_on_own_lane(
        &self,
        (ask, begun): (&Untagged, PermissionVersion),
        context: &WorkerContext<'_>,
        told: &Cell<bool>,
    ) -> Result<(), DedicatedError> {
        let mut lane = self.own_lane(&self.tenant, begun).await?;
        let cancel = lane.cancel.clone();
        tokio::select! {
            asked = self.relay_lines(&mut lane.own, (ask, begun), context, told) => asked?,
            () = cancel.given() => return Err(DedicatedError::Lane(Fault::Unavailable)),
        }
        if !ask.names_raw {
            lane.give_back();
        }
        Ok(())
    }

    async fn relay_lines(
        &self,
        own: &mut Own,
        (ask, begun): (&Untagged, PermissionVersion),
        context: &WorkerContext<'_>,
        told: &Cell<bool>,
    ) -> Result<(), DedicatedError> {
        own.write(&ask.line).await?;
        loop {
            let mut said = Vec::new();
            let line = own.take_line(context.scratch, |line| ask.say(line, &mut said)).await?;
            told.set(true);
            self.responses.say(&said);
            if line == Line::Last {
                return Ok(());
            }
            if self.responses.unsent() > UNSENT_MAX {
                self.drain().await?;
                self.still_allowed(begun)?;
            }
        }
    }
}
