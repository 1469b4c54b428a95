//! Streams a large value to memcached on a dedicated lane. memcached stores it only once its line end arrives, so
//! closing the lane before that discards it.

use std::io;
use std::ops::ControlFlow;

use tokio::time::Instant;

use super::{DedicatedError, failed};
use crate::lane::dedicated::{CHUNK_MAX, DedicatedLane, ReplyStart};
use crate::lane::encode;
use crate::protocol;
use crate::protocol::denial::Ending;
use crate::protocol::request::{CommandKind, Fault, ItemMeta, Outcome, ReplyFormat, Request};
use crate::session::state::{OwnedThen, Swallow};
use crate::session::{Session, WorkerContext};
use crate::tenant::PermissionVersion;

const LINE_END: &[u8] = b"\r\n";

/// A store whose value follows.
pub(crate) struct StreamedSet {
    /// The command's line for memcached.
    line: Vec<u8>,
    tag: u64,
    kind: CommandKind,
    format: ReplyFormat,
    context: Vec<u8>,
    /// Bytes of the value that haven't arrived.
    left: usize,
    /// The reply before closing if no line end follows the value; `None` if the protocol has no line end, or it has
    /// arrived.
    framing_error: Option<&'static [u8]>,
}

impl StreamedSet {
    pub(crate) fn new(
        request: &Request<'_>,
        len: usize,
        framing_error: Option<&'static [u8]>,
        tag: u64,
    ) -> Self {
        let (mut line, mut context) = (Vec::new(), Vec::new());
        encode::line(request, len, tag, &mut line);
        protocol::reply_context(request, &mut context);
        let (kind, format) = (request.command.kind(), request.format);
        Self { line, tag, kind, format, context, left: len, framing_error }
    }

    /// Bytes that haven't arrived, line end included.
    fn missing(&self) -> usize {
        self.left + self.framing_error.map_or(0, |_| LINE_END.len())
    }
}

/// What followed a value.
enum ValueEnd {
    Valid,
    /// No line end; the reply to that.
    Invalid(&'static [u8]),
}

impl Session {
    /// Forwards the value, and memcached's reply.
    pub(super) async fn stream_set(
        &mut self,
        mut store: StreamedSet,
        version: PermissionVersion,
        worker: &WorkerContext<'_>,
    ) -> io::Result<ControlFlow<()>> {
        let responses = self.responses.clone();
        let streamed = tokio::select! {
            biased;
            () = responses.wait_until_ended() => return Err(io::ErrorKind::BrokenPipe.into()),
            streamed = self.run_set(&mut store, version, worker) => streamed,
        };
        let outcome = match streamed {
            Ok(ValueEnd::Valid) => Outcome::Done(ItemMeta::default()),
            Ok(ValueEnd::Invalid(framing_error)) => {
                responses.write_raw(framing_error);
                return Ok(ControlFlow::Break(()));
            }
            Err(DedicatedError::Client(error)) if error.kind() == io::ErrorKind::TimedOut => {
                responses.end(Ending::Stalled);
                return Err(error);
            }
            Err(DedicatedError::Client(error)) => return Err(error),
            Err(DedicatedError::Lane(fault)) => {
                let StreamedSet { format, kind, .. } = store;
                let bytes = u64::try_from(store.missing()).unwrap_or(u64::MAX);
                if bytes == 0 {
                    responses.write_reply(format, kind, &store.context, &failed(fault));
                } else {
                    let then = OwnedThen::Fail { format, kind, context: store.context, fault };
                    self.state.swallow = Some(Swallow { bytes, then });
                }
                Outcome::Failed(fault)
            }
        };
        let usage = &self.tenant.usage;
        usage.answered(store.kind, store.format, &outcome, usage.now().since(responses.read_at()));
        Ok(ControlFlow::Continue(()))
    }

    async fn run_set(
        &mut self,
        store: &mut StreamedSet,
        version: PermissionVersion,
        worker: &WorkerContext<'_>,
    ) -> Result<ValueEnd, DedicatedError> {
        let tenant = self.tenant.clone();
        let mut lease = self.lease((&tenant, Instant::now()), version, worker).await?;
        let cancel = lease.cancel.clone();
        let ending = tokio::select! {
            ending = self.forward_value(&mut lease.lane, store, version, worker) => ending?,
            () = cancel.notified() => return Err(DedicatedError::Lane(Fault::Unavailable)),
        };
        if matches!(ending, ValueEnd::Valid) {
            lease.release();
        }
        Ok(ending)
    }

    async fn forward_value(
        &mut self,
        lane: &mut DedicatedLane,
        store: &mut StreamedSet,
        version: PermissionVersion,
        worker: &WorkerContext<'_>,
    ) -> Result<ValueEnd, DedicatedError> {
        lane.write(&store.line).await?;
        // From here on the client is awaited, so that the sweep finds it if it stalls.
        self.responses.hold_input(self.input.capacity().max(1), true);
        while store.left > 0 {
            if self.input.is_empty() {
                self.forward_chunk(lane, store, worker).await?;
                continue;
            }
            let have = self.input.len().min(store.left);
            lane.write(self.input.get(..have).unwrap_or_default()).await?;
            self.input.drain(..have);
            store.left -= have;
        }
        self.input.shrink_to_fit();
        if let Some(framing_error) = store.framing_error {
            while self.input.len() < LINE_END.len() {
                self.read_line_end(worker).await?;
            }
            if !self.input.starts_with(LINE_END) {
                return Ok(ValueEnd::Invalid(framing_error));
            }
            self.input.drain(..LINE_END.len());
            store.framing_error = None;
        }
        self.responses.hold_input(self.input.capacity(), false);
        self.recheck_permissions(version)?;
        lane.write(LINE_END).await?;
        match lane.read_reply(store.kind, store.tag, worker.scratch).await? {
            ReplyStart::Complete { len } => {
                if let Some(answered) = lane.complete_reply() {
                    self.responses.write_reply(store.format, store.kind, &store.context, &answered.reply);
                }
                lane.discard(len);
                Ok(ValueEnd::Valid)
            }
            ReplyStart::Value { .. } => Err(DedicatedError::Lane(Fault::Unavailable)),
        }
    }

    /// Reads a chunk of the value and forwards it; waits until memcached's socket has accepted it.
    async fn forward_chunk(
        &self,
        lane: &DedicatedLane,
        store: &mut StreamedSet,
        worker: &WorkerContext<'_>,
    ) -> Result<(), DedicatedError> {
        self.with_stall_timeout(|| self.responses.stream().readable()).await?;
        self.tenant.turns.begin().await;
        let rest = {
            let mut scratch = worker.scratch.borrow_mut();
            let room = scratch.get_mut(..store.left.min(CHUNK_MAX)).unwrap_or_default();
            let read = match self.responses.stream().read(room) {
                Ok(0) => return Err(DedicatedError::Client(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(DedicatedError::Client(error)),
            };
            self.responses.record_read(read);
            self.responses.advance_input();
            self.tenant.turns.charge(read);
            self.state.lane_use.moved(read);
            store.left -= read;
            let chunk = room.get(..read).unwrap_or_default();
            let written = lane.try_write(chunk)?;
            chunk.get(written..).unwrap_or_default().to_vec()
        };
        lane.write(&rest).await?;
        Ok(())
    }

    /// Reads at most a line end into the input.
    async fn read_line_end(&mut self, worker: &WorkerContext<'_>) -> Result<(), DedicatedError> {
        self.with_stall_timeout(|| self.responses.stream().readable()).await?;
        let mut scratch = worker.scratch.borrow_mut();
        let room = scratch.get_mut(..LINE_END.len()).unwrap_or_default();
        match self.responses.stream().read(room) {
            Ok(0) => Err(DedicatedError::Client(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.input.extend_from_slice(room.get(..read).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(DedicatedError::Client(error)),
        }
    }
}
