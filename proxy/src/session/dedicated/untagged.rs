//! Runs `stats`, `flush_all` and `me` on a dedicated lane, since their replies carry no tag (L-3).

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;

use memchr::memmem;
use tokio::time::Instant;

use super::{DedicatedError, failed};
use crate::lane::decode::ProtocolError;
use crate::lane::dedicated::DedicatedLane;
use crate::lane::encode;
use crate::protocol::request::{CommandKind, Fault, ReplyFormat, TextFormat, UntaggedCommand, UntaggedKind};
use crate::protocol::{binary, meta};
use crate::responses::UNSENT_MAX;
use crate::session::{Session, WorkerContext};
use crate::tenant::PermissionVersion;

/// An untagged command, encoded for memcached.
pub(crate) struct UntaggedRequest {
    /// The command's line for memcached.
    line: Vec<u8>,
    expected: Expected,
    format: ReplyFormat,
    /// Whether memcached may send a key that contains line ends, which leaves bytes of the reply unread. The lane is
    /// then not used again.
    may_leave_bytes: bool,
}

/// The reply that a command expects.
#[derive(Clone, Copy)]
enum Expected {
    Statistics,
    Ok,
    Item,
}

/// The position of a line in the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Last,
    OneOfMany,
}

impl UntaggedRequest {
    pub(crate) fn new(command: &UntaggedCommand<'_>) -> Self {
        let mut line = Vec::new();
        encode::untagged(command, &mut line);
        let expected = match command.kind {
            UntaggedKind::Stats { .. } => Expected::Statistics,
            UntaggedKind::FlushAll { .. } => Expected::Ok,
            UntaggedKind::Inspect { .. } => Expected::Item,
        };
        let may_leave_bytes = matches!(command.kind, UntaggedKind::Inspect { key, base64: true } if meta::reply::needs_key_echo(key));
        Self { line, expected, format: command.format, may_leave_bytes }
    }

    /// Appends one line of memcached's reply in the client's protocol.
    fn encode_line(&self, line: &[u8], out: &mut Vec<u8>) -> ControlFlow<ProtocolError, Line> {
        let suppressed = self.format == ReplyFormat::Text(TextFormat::Line { noreply: true });
        match (self.expected, line) {
            (Expected::Statistics, b"END") => {
                match self.format {
                    ReplyFormat::Binary(format) => binary::reply::statistic(format, b"", b"", out),
                    _ => out.extend_from_slice(b"END\r\n"),
                }
                ControlFlow::Continue(Line::Last)
            }
            (Expected::Statistics, line) => {
                let Some(rest) = line.strip_prefix(b"STAT ") else {
                    return ControlFlow::Break(ProtocolError::Status);
                };
                match self.format {
                    ReplyFormat::Binary(format) => {
                        let at = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
                        let (name, value) = rest.split_at_checked(at).unwrap_or_default();
                        binary::reply::statistic(format, name, value.get(1..).unwrap_or_default(), out);
                    }
                    _ => push_line(line, out),
                }
                ControlFlow::Continue(Line::OneOfMany)
            }
            (Expected::Ok, b"OK") => {
                match self.format {
                    ReplyFormat::Binary(format) => binary::reply::flushed(format, out),
                    _ if suppressed => {}
                    _ => push_line(line, out),
                }
                ControlFlow::Continue(Line::Last)
            }
            (Expected::Item, line) if line == b"EN" || is_item(line) => {
                push_line(line, out);
                ControlFlow::Continue(Line::Last)
            }
            _ => ControlFlow::Break(ProtocolError::Status),
        }
    }
}

/// Whether a line is a complete reply to `me`.
fn is_item(line: &[u8]) -> bool {
    line.starts_with(b"ME ")
        && memmem::find(line, b" exp=").is_some()
        && memmem::find(line, b" size=").is_some()
}

fn push_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

impl Session {
    /// Sends the command and forwards the reply. An error ends the connection.
    pub(super) async fn stream_untagged(
        &mut self,
        request: &UntaggedRequest,
        version: PermissionVersion,
        worker: &WorkerContext<'_>,
    ) -> io::Result<()> {
        let partially_sent = Cell::new(false);
        let result = tokio::select! {
            biased;
            () = self.responses.wait_until_ended() => return Err(self.leave(partially_sent.get())),
            result = self.run_untagged((request, version), worker, &partially_sent) => result,
        };
        self.tenant.usage.other();
        match result {
            Ok(()) => Ok(()),
            Err(DedicatedError::Lane(fault)) if !partially_sent.get() => {
                self.responses.write_reply(request.format, CommandKind::Version, b"", &failed(fault));
                Ok(())
            }
            Err(DedicatedError::Lane(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(DedicatedError::Client(error)) => Err(error),
        }
    }

    async fn run_untagged(
        &self,
        (request, version): (&UntaggedRequest, PermissionVersion),
        worker: &WorkerContext<'_>,
        partially_sent: &Cell<bool>,
    ) -> Result<(), DedicatedError> {
        let begun = Instant::now();
        // Statistics and an item's metadata are only read (F-35).
        let mut may_repeat = !matches!(request.expected, Expected::Ok) && self.tenant.backend.repeats_reads();
        loop {
            let mut lease = self.lease((&self.tenant, begun), version, worker).await?;
            let cancel = lease.cancel.clone();
            let forwarded = tokio::select! {
                result = self.forward_lines(&mut lease.lane, (request, version), worker, partially_sent) => result,
                () = cancel.notified() => Err(DedicatedError::Lane(Fault::Unavailable)),
            };
            match forwarded {
                Err(DedicatedError::Lane(Fault::Unavailable)) if may_repeat && !partially_sent.get() => {
                    may_repeat = false;
                }
                forwarded => {
                    forwarded?;
                    if !request.may_leave_bytes {
                        lease.release();
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn forward_lines(
        &self,
        lane: &mut DedicatedLane,
        (request, version): (&UntaggedRequest, PermissionVersion),
        worker: &WorkerContext<'_>,
        partially_sent: &Cell<bool>,
    ) -> Result<(), DedicatedError> {
        lane.write(&request.line).await?;
        loop {
            let mut reply = Vec::new();
            let line = lane.read_line(worker.scratch, |line| request.encode_line(line, &mut reply)).await?;
            partially_sent.set(true);
            self.responses.write_raw(&reply);
            self.state.lane_use.moved(reply.len());
            if line == Line::Last {
                return Ok(());
            }
            if self.responses.unsent() > UNSENT_MAX {
                self.send_all().await?;
                self.recheck_permissions(version)?;
            }
        }
    }
}
