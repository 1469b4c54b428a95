//! A value on a lane of its client's own: asked for, and passed on piece by piece as the client takes it.

use std::cell::Cell;
use std::io;

use super::{DedicatedError, failed};
use crate::lane::dedicated::{Own, Said};
use crate::lane::encode;
use crate::policy;
use crate::protocol::request::{
    Answer, Command, Fault, Head, ItemMeta, Key, KeyForm, Kind, Meta, Outcome, Reply, Request,
    SHARED_VALUE_MAX, Verb,
};
use crate::protocol::text::line::tokens;
use crate::protocol::{self, meta};
use crate::session::{Client, WorkerContext};
use crate::tenant::PermissionVersion;

/// A `get` as far as it matters here.
pub(crate) struct StreamedGet {
    answer: Answer,
    kind: Kind,
    note: Vec<u8>,
    /// Of a `gat`.
    exptime: Option<i32>,
    /// The flags of the answer that was dropped elsewhere.
    first: Option<Vec<u8>>,
}

impl StreamedGet {
    pub(crate) fn new(request: &Request<'_>) -> Self {
        let mut note = Vec::new();
        protocol::note(request, &mut note);
        let exptime = match request.command {
            Command::Get { exptime } => exptime,
            _ => None,
        };
        Self { answer: request.answer, kind: request.command.kind(), note, exptime, first: None }
    }

    /// To be asked again, after an answer with the flags `first`.
    pub(crate) fn again(answer: Answer, kind: Kind, note: Vec<u8>, first: Vec<u8>) -> Self {
        Self { answer, kind, note, exptime: None, first: Some(first) }
    }

    fn request(&self) -> Request<'_> {
        let (key, form, command) = match self.answer {
            Answer::Meta(_) => {
                let (key, flags) = meta::reply::noted_get(&self.note);
                let base64 = tokens(flags).any(|flag| flag.starts_with(b"b"));
                let form = if base64 { KeyForm::Base64 } else { KeyForm::Plain };
                (key, form, Command::Meta(Meta { verb: Verb::Get, flags, value: b"" }))
            }
            Answer::Binary(_) => (self.note.as_slice(), KeyForm::Raw, Command::Get { exptime: self.exptime }),
            Answer::Text(_) => (self.note.as_slice(), KeyForm::Plain, Command::Get { exptime: self.exptime }),
        };
        Request { command, key: Key { bytes: key, form }, answer: self.answer }
    }

    /// The flags to tell the caller.
    fn tokens(&self, second: &[u8]) -> Vec<u8> {
        match (&self.first, self.answer) {
            (Some(first), Answer::Meta(_)) => meta::reply::merge(first, second),
            _ => second.to_vec(),
        }
    }
}

impl Client {
    /// Asks and passes the answer on. An error is the end of the connection: nobody listens, or a value
    /// broke off half-way.
    pub(super) async fn fetch(&mut self, get: &StreamedGet, context: &WorkerContext<'_>) -> io::Result<()> {
        if self.responses.has_failed() {
            // The line that it belongs to ends in an error already.
            self.responses.speak(get.answer, get.kind, &get.note, &failed(Fault::Unavailable));
            return Ok(());
        }
        // Asked for a second time, perhaps much later than the first.
        let begun = self.session.pass.begun();
        let denial = self.session.pass.denial(|permissions| policy::request(permissions, &get.request()));
        if let Some(denial) = denial {
            self.note_refused(denial.cause(), "get");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let told = Cell::new(false);
        let fetched = tokio::select! {
            biased;
            () = self.responses.until_broken() => return Err(io::ErrorKind::BrokenPipe.into()),
            fetched = self.fetch_on_own_lane((get, begun), context, &told) => fetched,
        };
        let outcome = match fetched {
            Ok(len) => {
                if len.is_some_and(|len| len > SHARED_VALUE_MAX) {
                    self.state.saw_long();
                } else {
                    self.state.saw_small();
                }
                len.map_or(Outcome::Miss, |_| Outcome::Value(ItemMeta::default(), b""))
            }
            Err(DedicatedError::Lane(fault)) if !told.get() => {
                self.responses.speak(get.answer, get.kind, &get.note, &failed(fault));
                Outcome::Failed(fault)
            }
            Err(DedicatedError::Lane(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(DedicatedError::Client(error)) => return Err(error),
        };
        self.tenant.usage.answered(get.kind, &outcome, self.responses.asked(), self.tenant.usage.now());
        Ok(())
    }

    /// How long the value was, if there is an item; and whether the client has been `told` its beginning.
    async fn fetch_on_own_lane(
        &self,
        (get, begun): (&StreamedGet, PermissionVersion),
        context: &WorkerContext<'_>,
        told: &Cell<bool>,
    ) -> Result<Option<usize>, DedicatedError> {
        let mut lane = self.own_lane(&self.tenant, begun).await?;
        let cancel = lane.cancel.clone();
        let len = tokio::select! {
            len = self.converse(&mut lane.own, (get, begun), context, told) => len?,
            () = cancel.given() => return Err(DedicatedError::Lane(Fault::Unavailable)),
        };
        lane.give_back();
        Ok(len)
    }

    async fn converse(
        &self,
        own: &mut Own,
        (get, begun): (&StreamedGet, PermissionVersion),
        context: &WorkerContext<'_>,
        told: &Cell<bool>,
    ) -> Result<Option<usize>, DedicatedError> {
        let tag = self.tenant.tag();
        let mut line = Vec::new();
        encode::request(&get.request(), tag, &mut line);
        own.write(&line).await?;
        let (line, len) = match own.hear(get.kind, tag, context.scratch).await? {
            Said::Value { line, len } => (line, len),
            Said::Whole { len } => {
                let mut found = None;
                if let Some(answered) = own.answer() {
                    let tokens = get.tokens(answered.reply.tokens);
                    let reply = Reply { tokens: &tokens, ..answered.reply };
                    found = (reply.outcome != Outcome::Miss).then_some(0);
                    self.responses.speak(get.answer, get.kind, &get.note, &reply);
                }
                own.skip(len);
                return Ok(found);
            }
        };
        let head = own.head().ok_or(Fault::Unavailable)?;
        let tokens = get.tokens(head.tokens);
        let head = Head { tokens: &tokens, ..head };
        self.responses.with_buffer(|buffer| protocol::value_head(get.answer, &get.note, &head, buffer));
        told.set(true);
        own.skip(line);
        let mut left = len;
        while left > 0 {
            left -= own.take(left, context.scratch, |piece| self.responses.say(piece)).await?;
            self.drain().await?;
            self.still_allowed(begun)?;
        }
        own.take_value_end(context.scratch).await?;
        self.responses.say(protocol::value_tail(get.answer));
        Ok(Some(len))
    }
}
