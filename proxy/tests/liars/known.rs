//! What a client knows of its keys, and so what it may be told about them. Every value says whose it is:
//! `user|key|client.number|times|`, so many times.

use std::collections::HashSet;

/// Whose value this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Author {
    pub(crate) client: u32,
    pub(crate) number: u64,
}

pub(crate) fn value(user: &str, key: &str, author: Author, times: usize) -> Vec<u8> {
    format!("{user}|{key}|{}.{}|{times}|", author.client, author.number).repeat(times).into_bytes()
}

/// Reads a value of `user` under `key`; panics at a byte of anything else.
pub(crate) fn author(user: &str, key: &str, value: &[u8]) -> Author {
    let words = String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned();
    let read = || {
        let end = value.iter().enumerate().filter(|(_, byte)| **byte == b'|').nth(3)?.0;
        let word = std::str::from_utf8(&value[..=end]).ok()?;
        let mut fields =
            word.strip_prefix(user)?.strip_prefix('|')?.strip_prefix(key)?.strip_prefix('|')?.split('|');
        let (client, number) = fields.next()?.split_once('.')?;
        let times: usize = fields.next()?.parse().ok()?;
        // The same word all the way: each byte is the one a word's length before it.
        let whole =
            value.len() == word.len() * times && value[word.len()..] == value[..value.len() - word.len()];
        whole.then_some(Author { client: client.parse().ok()?, number: number.parse().ok()? })
    };
    read().unwrap_or_else(|| panic!("{user} asked for {key} and got {} bytes: {words:?}", value.len()))
}

/// A key that one client writes alone.
#[derive(Default)]
pub(crate) struct Own {
    /// The author of its value; `None` when there is none.
    now: Option<Author>,
    /// What was asked for and not confirmed: it may have been done, or may be done yet.
    maybe: HashSet<Option<Author>>,
}

impl Own {
    pub(crate) fn confirm(&mut self, now: Option<Author>) {
        self.now = now;
    }

    pub(crate) fn doubt(&mut self, then: Option<Author>) {
        self.maybe.insert(then);
    }

    /// Whether it may be found so.
    pub(crate) fn allows(&self, found: Option<Author>) -> bool {
        self.now == found || self.maybe.contains(&found)
    }
}

/// A number that one client counts up alone: no step of it is lost or done twice.
#[derive(Default)]
pub(crate) struct Counter {
    /// What was said last; `None` when there may be none.
    last: Option<u64>,
    confirmed: u64,
    doubtful: u64,
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

    pub(crate) fn doubt(&mut self) {
        self.doubtful += 1;
    }

    pub(crate) fn counted(&mut self, now: u64) {
        match self.last {
            Some(last) => {
                self.confirmed += 1;
                let most = self.confirmed + self.doubtful;
                assert!(last < now && now <= most, "counted to {now} behind {last}, {most} at most");
            }
            None => self.confirmed = now,
        }
        self.last = Some(now);
    }
}
