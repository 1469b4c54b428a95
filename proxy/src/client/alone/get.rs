//! A value on a lane of its client's own: asked for, and passed on piece by piece as the client takes it.

use std::cell::Cell;
use std::io;

use super::{Trouble, failed};
use crate::client::{Client, House};
use crate::dialect::text::tokens;
use crate::dialect::{self, meta_reply};
use crate::home::Begun;
use crate::lane::encode;
use crate::lane::own::{Own, Said};
use crate::policy;
use crate::request::{
    Answer, Command, Fault, Head, Key, KeyForm, Kind, Meta, Outcome, Reply, Request, SHARED_VALUE_MAX, Stamp,
    Verb,
};

/// A `get` as far as it matters here.
pub(crate) struct OwnGet {
    answer: Answer,
    kind: Kind,
    note: Vec<u8>,
    /// Of a `gat`.
    exptime: Option<i32>,
    /// The flags of the answer that was dropped elsewhere.
    first: Option<Vec<u8>>,
}

impl OwnGet {
    pub(crate) fn new(request: &Request<'_>) -> Self {
        let mut note = Vec::new();
        dialect::note(request, &mut note);
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
                let (key, flags) = meta_reply::noted_get(&self.note);
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
            (Some(first), Answer::Meta(_)) => meta_reply::merge(first, second),
            _ => second.to_vec(),
        }
    }
}

impl Client {
    /// Asks and passes the answer on. An error is the end of the connection: nobody listens, or a value
    /// broke off half-way.
    pub(super) async fn fetch(&mut self, get: &OwnGet, house: &House<'_>) -> io::Result<()> {
        if self.outbox.has_failed() {
            // The line that it belongs to ends in an error already.
            self.outbox.speak(get.answer, get.kind, &get.note, &failed(Fault::Unavailable));
            return Ok(());
        }
        // Asked for a second time, perhaps much later than the first.
        let begun = self.seat.pass.begun();
        let refusal = self.seat.pass.refusal(|powers| policy::request(powers, &get.request()));
        if let Some(refusal) = refusal {
            self.note_refused(refusal.cause(), "get");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let told = Cell::new(false);
        let fetched = tokio::select! {
            biased;
            () = self.outbox.until_broken() => return Err(io::ErrorKind::BrokenPipe.into()),
            fetched = self.fetch_on_own_lane((get, begun), house, &told) => fetched,
        };
        let outcome = match fetched {
            Ok(len) => {
                if len.is_some_and(|len| len > SHARED_VALUE_MAX) {
                    self.state.saw_long();
                } else {
                    self.state.saw_small();
                }
                len.map_or(Outcome::Miss, |_| Outcome::Value(Stamp::default(), b""))
            }
            Err(Trouble::Lane(fault)) if !told.get() => {
                self.outbox.speak(get.answer, get.kind, &get.note, &failed(fault));
                Outcome::Failed(fault)
            }
            Err(Trouble::Lane(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(Trouble::Client(error)) => return Err(error),
        };
        self.home.usage.answered(get.kind, &outcome, self.outbox.asked(), self.home.usage.now());
        Ok(())
    }

    /// How long the value was, if there is an item; and whether the client has been `told` its beginning.
    async fn fetch_on_own_lane(
        &self,
        (get, begun): (&OwnGet, Begun),
        house: &House<'_>,
        told: &Cell<bool>,
    ) -> Result<Option<usize>, Trouble> {
        let mut lane = self.own_lane(&self.home, begun).await?;
        let leash = lane.leash.clone();
        let len = tokio::select! {
            len = self.converse(&mut lane.own, (get, begun), house, told) => len?,
            () = leash.given() => return Err(Trouble::Lane(Fault::Unavailable)),
        };
        lane.give_back();
        Ok(len)
    }

    async fn converse(
        &self,
        own: &mut Own,
        (get, begun): (&OwnGet, Begun),
        house: &House<'_>,
        told: &Cell<bool>,
    ) -> Result<Option<usize>, Trouble> {
        let tag = self.home.tag();
        let mut line = Vec::new();
        encode::request(&get.request(), tag, &mut line);
        own.write(&line).await?;
        let (line, len) = match own.hear(get.kind, tag, house.scratch).await? {
            Said::Value { line, len } => (line, len),
            Said::Whole { len } => {
                let mut found = None;
                if let Some(answered) = own.answer() {
                    let tokens = get.tokens(answered.reply.tokens);
                    let reply = Reply { tokens: &tokens, ..answered.reply };
                    found = (reply.outcome != Outcome::Miss).then_some(0);
                    self.outbox.speak(get.answer, get.kind, &get.note, &reply);
                }
                own.skip(len);
                return Ok(found);
            }
        };
        let head = own.head().ok_or(Fault::Unavailable)?;
        let tokens = get.tokens(head.tokens);
        let head = Head { tokens: &tokens, ..head };
        self.outbox.with_buffer(|buffer| dialect::value_head(get.answer, &get.note, &head, buffer));
        told.set(true);
        own.skip(line);
        let mut left = len;
        while left > 0 {
            left -= own.take(left, house.scratch, |piece| self.outbox.say(piece)).await?;
            self.drain().await?;
            self.still_allowed(begun)?;
        }
        own.take_value_end(house.scratch).await?;
        self.outbox.say(dialect::value_tail(get.answer));
        Ok(Some(len))
    }
}
