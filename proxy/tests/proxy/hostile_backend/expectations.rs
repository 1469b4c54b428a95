//! What a client knows about its keys, and so which replies it may get. Every value names its owner:
//! `user|key|client.number|times|`, repeated `times` times.

use std::collections::HashSet;

/// Who wrote a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Author {
    pub(crate) client: u32,
    pub(crate) number: u64,
}

pub(crate) fn value(user: &str, key: &str, author: Author, times: usize) -> Vec<u8> {
    format!("{user}|{key}|{}.{}|{times}|", author.client, author.number).repeat(times).into_bytes()
}

/// Parses a value of `user` under `key`; panics at any foreign byte.
pub(crate) fn author(user: &str, key: &str, value: &[u8]) -> Author {
    let words = String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned();
    let read = || {
        let end = value.iter().enumerate().filter(|(_, byte)| **byte == b'|').nth(3)?.0;
        let word = std::str::from_utf8(&value[..=end]).ok()?;
        let mut fields =
            word.strip_prefix(user)?.strip_prefix('|')?.strip_prefix(key)?.strip_prefix('|')?.split('|');
        let (client, number) = fields.next()?.split_once('.')?;
        let times: usize = fields.next()?.parse().ok()?;
        // The same unit throughout: each byte equals the one a unit's length before it.
        let whole =
            value.len() == word.len() * times && value[word.len()..] == value[..value.len() - word.len()];
        whole.then_some(Author { client: client.parse().ok()?, number: number.parse().ok()? })
    };
    read().unwrap_or_else(|| panic!("{user} requested for {key} and got {} bytes: {words:?}", value.len()))
}

/// A key that only one client writes.
#[derive(Default)]
pub(crate) struct OwnedKey {
    /// The author of its value; `None` when it doesn't exist.
    now: Option<Author>,
    /// Writes that were sent and not confirmed: each may have been executed, or may be yet.
    possible: HashSet<Option<Author>>,
}

impl OwnedKey {
    pub(crate) fn confirm(&mut self, now: Option<Author>) {
        self.now = now;
    }

    pub(crate) fn record_unconfirmed(&mut self, then: Option<Author>) {
        self.possible.insert(then);
    }

    /// Whether the key may hold `found`.
    pub(crate) fn allows(&self, found: Option<Author>) -> bool {
        self.now == found || self.possible.contains(&found)
    }
}

/// A number that only one client increments: no increment may be lost or executed twice.
#[derive(Default)]
pub(crate) struct Counter {
    /// The last value; `None` when the counter may not exist.
    last: Option<u64>,
    confirmed: u64,
    unconfirmed: u64,
}

impl Counter {
    pub(crate) fn exists(&self) -> bool {
        self.last.is_some()
    }

    pub(crate) fn begin(&mut self) {
        (self.last, self.confirmed) = (Some(0), 0);
    }

    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    pub(crate) fn record_unconfirmed(&mut self) {
        self.unconfirmed += 1;
    }

    pub(crate) fn counted(&mut self, now: u64) {
        match self.last {
            Some(last) => {
                self.confirmed += 1;
                let most = self.confirmed + self.unconfirmed;
                assert!(last < now && now <= most, "counted to {now} behind {last}, {most} at most");
            }
            None => self.confirmed = now,
        }
        self.last = Some(now);
    }
}
