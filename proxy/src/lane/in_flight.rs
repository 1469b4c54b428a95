//! Who waits for what on a lane, in order. A reply is handed out only if it carries its request's tag.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use super::decode::{self, Decoded, ProtocolError, VALUE_END, ValueLimits};
use crate::metrics::usage::{Asked, Usage};
use crate::protocol;
use crate::protocol::request::{CommandKind, Fault, Outcome, Reply, ReplyFormat, Request};
use crate::responses::ResponseQueue;

pub(crate) struct Queue {
    waiting: VecDeque<Waiting>,
    /// The notes of those that have one, end to end.
    notes: VecDeque<u8>,
    next_tag: u64,
    sizes: ValueLimits,
    /// How much of a long value, its end included, is still to be dropped.
    dropping: usize,
    usage: Rc<Usage>,
}

struct Waiting {
    client: Rc<ResponseQueue>,
    what: What,
}

enum What {
    Reply {
        tag: u64,
        kind: CommandKind,
        answer: ReplyFormat,
        note_len: usize,
        asked: Asked,
    },
    /// Nothing from memcached: said when all before it has been said.
    Words(Cow<'static, [u8]>),
}

impl Queue {
    pub(crate) fn new(sizes: ValueLimits, usage: Rc<Usage>) -> Self {
        Self { waiting: VecDeque::new(), notes: VecDeque::new(), next_tag: 0, sizes, dropping: 0, usage }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.dropping == 0
    }

    /// Notes that `client` waits for the reply to `request`; returns the tag to send with it.
    pub(crate) fn push(&mut self, request: &Request<'_>, client: Rc<ResponseQueue>) -> u64 {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        let before = self.notes.len();
        protocol::reply_context(request, &mut self.notes);
        let note_len = self.notes.len() - before;
        let (kind, asked) = (request.command.kind(), client.asked());
        client.expect(kind);
        self.waiting.push_back(Waiting {
            client,
            what: What::Reply { tag, kind, answer: request.format, note_len, asked },
        });
        tag
    }

    /// Notes words for `client` behind what it waits for.
    pub(crate) fn push_words(&mut self, words: Cow<'static, [u8]>, client: Rc<ResponseQueue>) {
        client.expect_words();
        self.waiting.push_back(Waiting { client, what: What::Words(words) });
    }

    /// Hands out every whole reply in `input`; returns how many bytes those were. Clients that were
    /// told something are added to `touched`, once each.
    pub(crate) fn deliver(
        &mut self,
        input: &[u8],
        touched: &mut Vec<Rc<ResponseQueue>>,
    ) -> Result<usize, ProtocolError> {
        let mut consumed = self.drop_long(input)?;
        let now = self.usage.now();
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            let Some(heard) = decode::parse(rest, self.sizes)? else { break };
            match heard {
                Decoded::Whole(answered) => {
                    consumed += answered.consumed;
                    let next = self.expect(|kind, tag| answered.answers(kind, tag))?;
                    self.tell(next, &answered.reply, now, touched);
                }
                Decoded::Long { head, tag, consumed: line } => {
                    consumed += line;
                    let next = self.expect(|kind, own| tag == Some(own) && decode::gives_long_value(kind))?;
                    self.put_off(next, head.tokens, touched);
                    self.dropping = head.len + VALUE_END.len();
                    consumed += self.drop_long(input.get(consumed..).unwrap_or_default())?;
                }
            }
            self.say_words(touched);
        }
        Ok(consumed)
    }

    /// The first who waits, if the reply `is_its`.
    fn expect<F: Fn(CommandKind, u64) -> bool>(&mut self, is_its: F) -> Result<Waiting, ProtocolError> {
        let next = self.waiting.pop_front().ok_or(ProtocolError::Unasked)?;
        if !matches!(next.what, What::Reply { kind, tag, .. } if is_its(kind, tag)) {
            self.waiting.push_front(next);
            return Err(ProtocolError::Mismatch);
        }
        Ok(next)
    }

    /// Passes over what is left of a long value; returns how much that was.
    fn drop_long(&mut self, input: &[u8]) -> Result<usize, ProtocolError> {
        let (dropped, _) = input.split_at_checked(self.dropping).unwrap_or((input, b""));
        let left = self.dropping - dropped.len();
        for (back, byte) in dropped.iter().rev().take(VALUE_END.len()).enumerate() {
            let expected = VALUE_END.iter().rev().nth(left + back);
            if expected.is_some_and(|expected| byte != expected) {
                return Err(ProtocolError::Value);
            }
        }
        self.dropping = left;
        Ok(dropped.len())
    }

    /// Answers everything that waits with `fault`; returns those who were told.
    pub(crate) fn fail(&mut self, fault: Fault) -> Vec<Rc<ResponseQueue>> {
        let mut touched = Vec::new();
        let now = self.usage.now();
        while let Some(next) = self.waiting.pop_front() {
            self.tell(next, &Outcome::Failed(fault).into(), now, &mut touched);
        }
        touched
    }

    /// Says the words at the head, if there are any: nothing from memcached is needed for them.
    fn say_words(&mut self, touched: &mut Vec<Rc<ResponseQueue>>) {
        while let Some(Waiting { what: What::Words(_), .. }) = self.waiting.front() {
            let Some(Waiting { client, what: What::Words(words) }) = self.waiting.pop_front() else { return };
            client.answer_words(words);
            touch(client, touched);
        }
    }

    fn tell(&mut self, next: Waiting, reply: &Reply<'_>, now: Asked, touched: &mut Vec<Rc<ResponseQueue>>) {
        let client = next.client;
        match next.what {
            What::Words(words) => client.answer_words(words),
            What::Reply { kind, answer, note_len, asked, .. } => {
                client.answer(answer, kind, self.note(note_len), reply);
                self.notes.drain(..note_len);
                self.usage.answered(kind, &reply.outcome, asked, now);
            }
        }
        touch(client, touched);
    }

    /// A value too long for this lane: its client asks again elsewhere.
    fn put_off(&mut self, next: Waiting, tokens: &[u8], touched: &mut Vec<Rc<ResponseQueue>>) {
        self.usage.met_long_value();
        if let What::Reply { answer, kind, note_len, .. } = next.what {
            next.client.put_off(answer, kind, self.note(note_len), tokens);
            self.notes.drain(..note_len);
        }
        touch(next.client, touched);
    }

    /// The first note, so long.
    fn note(&mut self, len: usize) -> &[u8] {
        if self.notes.as_slices().0.len() < len {
            self.notes.make_contiguous();
        }
        self.notes.as_slices().0.get(..len).unwrap_or_default()
    }
}

/// Each client once.
fn touch(client: Rc<ResponseQueue>, touched: &mut Vec<Rc<ResponseQueue>>) {
    if client.touch() {
        touched.push(client);
    }
}
