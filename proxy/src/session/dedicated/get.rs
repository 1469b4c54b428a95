//! Streams a large value from a dedicated lane: forwards it in chunks as fast as the client reads.

use std::cell::Cell;
use std::io;

use super::{DedicatedError, failed};
use crate::lane::dedicated::{DedicatedLane, ReplyStart};
use crate::lane::encode;
use crate::policy;
use crate::protocol::meta::flags::{self, letter};
use crate::protocol::request::{
    Command, CommandKind, Fault, ItemMeta, Key, KeyForm, Meta, Outcome, Reply, ReplyFormat, Request,
    SHARED_VALUE_MAX, ValueHeader, Verb,
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
        let (key, form, command) = match self.format {
            ReplyFormat::Meta(_) => {
                let (key, flags) = meta::reply::split_context(&self.context);
                let base64 = flags::contains(flags, letter::BASE64);
                let form = if base64 { KeyForm::Base64 } else { KeyForm::Plain };
                (key, form, Command::Meta(Meta { verb: Verb::Get, flags, value: b"" }))
            }
            ReplyFormat::Binary(_) => {
                (self.context.as_slice(), KeyForm::Raw, Command::Get { exptime: self.exptime })
            }
            ReplyFormat::Text(_) => {
                (self.context.as_slice(), KeyForm::Plain, Command::Get { exptime: self.exptime })
            }
        };
        Request { command, key: Key { bytes: key, form }, format: self.format }
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
        self.tenant.usage.answered(get.kind, &outcome, self.responses.read_at(), self.tenant.usage.now());
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
        let mut lease = self.lease(&self.tenant, version).await?;
        let cancel = lease.cancel.clone();
        let len = tokio::select! {
            len = self.forward_get(&mut lease.lane, (get, version), worker, partially_sent) => len?,
            () = cancel.notified() => return Err(DedicatedError::Lane(Fault::Unavailable)),
        };
        lease.release();
        Ok(len)
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
