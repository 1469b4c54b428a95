//! Who waits for what on a lane, in order. A reply is handed out only if it carries its request's tag.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use super::reply::{self, Garbage};
use crate::dialect;
use crate::outbox::Outbox;
use crate::request::{Answer, Fault, Kind, Outcome, Request};

pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// The keys of those that answer with one, end to end.
    keys: VecDeque<u8>,
    next_tag: u64,
    value_max: usize,
}

struct Waiting {
    client: Rc<Outbox>,
    what: What,
}

enum What {
    Reply {
        tag: u64,
        kind: Kind,
        answer: Answer,
        key_len: usize,
    },
    /// Nothing from memcached: said when all before it has been said.
    Words(Cow<'static, [u8]>),
}

impl Queue {
    pub(super) fn new(value_max: usize) -> Self {
        Self { waiting: VecDeque::new(), keys: VecDeque::new(), next_tag: 0, value_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Notes that `client` waits for the reply to `request`; returns the tag to send with it.
    pub(super) fn push(&mut self, request: &Request<'_>, client: Rc<Outbox>) -> u64 {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        let mut key_len = 0;
        if dialect::wants_key(request.answer) {
            self.keys.extend(request.key);
            key_len = request.key.len();
        }
        client.expect_one();
        let what = What::Reply { tag, kind: request.command.kind(), answer: request.answer, key_len };
        self.waiting.push_back(Waiting { client, what });
        tag
    }

    /// Notes words for `client` behind what it waits for.
    pub(super) fn push_words(&mut self, words: Cow<'static, [u8]>, client: Rc<Outbox>) {
        client.expect_one();
        self.waiting.push_back(Waiting { client, what: What::Words(words) });
    }

    /// Hands out every whole reply in `input`; returns how many bytes those were. Clients that were
    /// told something are added to `touched`, once each.
    pub(super) fn deliver(&mut self, input: &[u8], touched: &mut Vec<Rc<Outbox>>) -> Result<usize, Garbage> {
        let mut consumed = 0;
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            let Some(reply) = reply::parse(rest, self.value_max)? else { break };
            consumed += reply.consumed;
            let next = self.waiting.pop_front().ok_or(Garbage::Unasked)?;
            if !matches!(next.what, What::Reply { kind, tag, .. } if reply.answers(kind, tag)) {
                self.waiting.push_front(next);
                return Err(Garbage::Mismatch);
            }
            self.tell(next, &reply.outcome, touched);
            self.say_words(touched);
        }
        Ok(consumed)
    }

    /// Answers everything that waits with `fault`; returns those who were told.
    pub(super) fn fail(&mut self, fault: Fault) -> Vec<Rc<Outbox>> {
        let mut touched = Vec::new();
        while let Some(next) = self.waiting.pop_front() {
            self.tell(next, &Outcome::Failed(fault), &mut touched);
        }
        touched
    }

    /// Says the words at the head, if there are any: nothing from memcached is needed for them.
    fn say_words(&mut self, touched: &mut Vec<Rc<Outbox>>) {
        while matches!(self.waiting.front(), Some(Waiting { what: What::Words(_), .. })) {
            if let Some(next) = self.waiting.pop_front() {
                self.tell(next, &Outcome::Miss, touched);
            }
        }
    }

    fn tell(&mut self, next: Waiting, outcome: &Outcome<'_>, touched: &mut Vec<Rc<Outbox>>) {
        let client = next.client;
        match next.what {
            What::Words(words) => client.answer_words(&words),
            What::Reply { kind, answer, key_len, .. } => {
                if self.keys.as_slices().0.len() < key_len {
                    self.keys.make_contiguous();
                }
                let key = self.keys.as_slices().0.get(..key_len).unwrap_or_default();
                client.answer(answer, kind, key, outcome);
                self.keys.drain(..key_len);
            }
        }
        if client.touch() {
            touched.push(client);
        }
    }
}
