//! Streams a large value from a dedicated lane: forwards it in chunks as fast as the client reads.

use std::cell::Cell;
use std::io;

use tokio::time::Instant;

use super::{DedicatedError, failed};
use crate::lane::dedicated::{DedicatedLane, ReplyStart};
use crate::lane::encode;
use crate::policy;
use crate::protocol::request::{
    Command, CommandKind, Fault, ItemMeta, Outcome, Reply, ReplyFormat, Request, SHARED_VALUE_MAX,
    ValueHeader,
};
use crate::protocol::{self, meta};
use crate::session::{Session, WorkerContext};
use crate::tenant::PermissionVersion;

/// A get whose value is streamed.
pub(crate) struct StreamedGet {
    format: ReplyFormat,
    kind: CommandKind,
    context: Vec<u8>,
    /// The expiry of a `gat`.
    exptime: Option<i32>,
    /// The flags of the first reply, whose value was dropped on the shared lane.
    first: Option<Vec<u8>>,
}

impl StreamedGet {
    pub(crate) fn new(request: &Request<'_>) -> Self {
        let mut context = Vec::new();
        protocol::reply_context(request, &mut context);
        let exptime = match request.command {
            Command::Get { exptime } => exptime,
            _ => None,
        };
        Self { format: request.format, kind: request.command.kind(), context, exptime, first: None }
    }

    /// A get to repeat, after a first reply with the flags `first`.
    pub(crate) fn again(format: ReplyFormat, kind: CommandKind, context: Vec<u8>, first: Vec<u8>) -> Self {
        Self { format, kind, context, exptime: None, first: Some(first) }
    }

    fn request(&self) -> Request<'_> {
        protocol::request_again(self.format, self.kind, &self.context, self.exptime)
    }

    /// Whether it only reads, so that it is sent again if its lane fails before anything has arrived (F-35).
    fn may_repeat(&self) -> bool {
        self.exptime.is_none() && !protocol::mutates(self.kind, &self.context)
    }

    /// The flags for the client.
    fn merged_flags(&self, second: &[u8]) -> Vec<u8> {
        match (&self.first, self.format) {
            (Some(first), ReplyFormat::Meta(_)) => meta::reply::merge(first, second),
            _ => second.to_vec(),
        }
    }
}

impl Session {
    /// Requests the value and forwards it. An error ends the connection: it is broken, or a value was only
    /// partially sent.
    pub(super) async fn stream_get(
        &mut self,
        get: &StreamedGet,
        worker: &WorkerContext<'_>,
    ) -> io::Result<()> {
        if self.responses.has_failed() {
            // The reply to its `get` line already ends in an error.
            self.responses.write_reply(get.format, get.kind, &get.context, &failed(Fault::Unavailable));
            return Ok(());
        }
        if worker.begins_no_value.get() {
            // All replies before it are whole.
            self.send_all().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // A repeated get may run much later than the first, so permissions are checked again.
        let version = self.handle.permissions.version();
        let denial =
            self.handle.permissions.denial(|permissions| policy::deny_request(permissions, &get.request()));
        if let Some(denial) = denial {
            self.record_denial(denial.cause(), "get");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let partially_sent = Cell::new(false);
        let fetched = tokio::select! {
            biased;
            () = self.responses.wait_until_ended() => return Err(self.leave(partially_sent.get())),
            fetched = self.run_get((get, version), worker, &partially_sent) => fetched,
        };
        let outcome = match fetched {
            Ok(len) => {
                if len.is_some_and(|len| len > SHARED_VALUE_MAX) {
                    self.state.note_large();
                } else {
                    self.state.note_small();
                }
                len.map_or(Outcome::Miss, |_| Outcome::Value(ItemMeta::default(), b""))
            }
            Err(DedicatedError::Lane(fault)) if !partially_sent.get() => {
                self.responses.write_reply(get.format, get.kind, &get.context, &failed(fault));
                Outcome::Failed(fault)
            }
            Err(DedicatedError::Lane(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(DedicatedError::Client(error)) => return Err(error),
        };
        let usage = &self.tenant.usage;
        usage.answered(get.kind, get.format, &outcome, usage.now().since(self.responses.read_at()));
        Ok(())
    }

    /// Returns the value's length in bytes, `None` for a miss. Sets `partially_sent` once the client was sent its
    /// header.
    async fn run_get(
        &self,
        (get, version): (&StreamedGet, PermissionVersion),
        worker: &WorkerContext<'_>,
        partially_sent: &Cell<bool>,
    ) -> Result<Option<usize>, DedicatedError> {
        let begun = Instant::now();
        let mut may_repeat = get.may_repeat() && self.tenant.backend.repeats_reads();
        loop {
            let mut lease = self.lease((&self.tenant, begun), version, worker).await?;
            let cancel = lease.cancel.clone();
            let forwarded = tokio::select! {
                len = self.forward_get(&mut lease.lane, (get, version), worker, partially_sent) => len,
                () = cancel.notified() => Err(DedicatedError::Lane(Fault::Unavailable)),
            };
            match forwarded {
                Err(DedicatedError::Lane(Fault::Unavailable)) if may_repeat && !partially_sent.get() => {
                    may_repeat = false;
                }
                forwarded => {
                    let len = forwarded?;
                    lease.release();
                    return Ok(len);
                }
            }
        }
    }

    async fn forward_get(
        &self,
        lane: &mut DedicatedLane,
        (get, version): (&StreamedGet, PermissionVersion),
        worker: &WorkerContext<'_>,
        partially_sent: &Cell<bool>,
    ) -> Result<Option<usize>, DedicatedError> {
        let tag = self.tenant.backend.next_tag();
        let mut line = Vec::new();
        encode::request(&get.request(), tag, &mut line);
        lane.write(&line).await?;
        let (line, len) = match lane.read_reply(get.kind, tag, worker.scratch).await? {
            ReplyStart::Value { line, len } => (line, len),
            ReplyStart::Complete { len } => {
                let mut found = None;
                if let Some(answered) = lane.complete_reply() {
                    let tokens = get.merged_flags(answered.reply.tokens);
                    let reply = Reply { tokens: &tokens, ..answered.reply };
                    found = (reply.outcome != Outcome::Miss).then_some(0);
                    self.responses.write_reply(get.format, get.kind, &get.context, &reply);
                }
                lane.discard(len);
                return Ok(found);
            }
        };
        let head = lane.value_header().ok_or(Fault::Unavailable)?;
        let tokens = get.merged_flags(head.tokens);
        let head = ValueHeader { tokens: &tokens, ..head };
        self.responses
            .with_buffer(|buffer| protocol::encode_value_header(get.format, &get.context, &head, buffer));
        partially_sent.set(true);
        lane.discard(line);
        let mut left = len;
        while left > 0 {
            self.tenant.turns.begin().await;
            let len = lane.read_chunk(left, worker.scratch, |chunk| self.responses.write_raw(chunk)).await?;
            self.tenant.turns.charge(len);
            self.state.lane_use.moved(len);
            left -= len;
            self.send_all().await?;
            self.recheck_permissions(version)?;
        }
        lane.read_value_end(worker.scratch).await?;
        self.responses.write_raw(protocol::value_end(get.format));
        Ok(Some(len))
    }
}
