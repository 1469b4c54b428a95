//! Counts what a tenant's sessions do: plain cells of one thread, collected by the worker every second.

use std::cell::Cell;
use std::time::Instant;

use super::requests::{CountsByProtocol, RequestCounts, Requests, add};
use crate::protocol::request::{CommandKind, Outcome, ReplyFormat, Verb};

/// When a request was read, in microseconds of the clock of [`Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StartedAt(u32);

/// A time in microseconds of the clock of [`Usage`] that doesn't wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(u64);

impl Time {
    /// The same time as that of a request.
    pub(crate) fn started_at(self) -> StartedAt {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        StartedAt(u32::from_le_bytes([a, b, c, d]))
    }

    #[cfg(test)]
    pub(crate) const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }
}

impl StartedAt {
    /// Microseconds since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The time `micros` microseconds earlier.
    pub(crate) fn before(self, micros: u32) -> Self {
        Self(self.0.wrapping_sub(micros))
    }

    #[cfg(test)]
    pub(crate) const ZERO: Self = Self(0);

    #[cfg(test)]
    pub(crate) const fn from_micros(micros: u32) -> Self {
        Self(micros)
    }
}

#[derive(Debug)]
pub(crate) struct Usage {
    epoch: Instant,
    hits: Cell<u64>,
    misses: Cell<u64>,
    stores: Cell<u64>,
    deletes: Cell<u64>,
    arithmetic: Cell<u64>,
    touches: Cell<u64>,
    others: Cell<u64>,
    requests: Requests,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    /// Bytes both ways that were collected before.
    bytes_taken: Cell<u64>,
    large_values: Cell<bool>,
}

fn add_len(sum: &Cell<u64>, len: usize) {
    add(sum, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Counts since the last collection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stores: u64,
    pub(crate) deletes: u64,
    pub(crate) arithmetic: u64,
    pub(crate) touches: u64,
    /// Version, statistics, flushes.
    pub(crate) others: u64,
    /// Those of the above that failed because the backend didn't answer.
    pub(crate) errors: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Counts {
    /// Adds later counts.
    pub(crate) fn add(&mut self, later: &Self) {
        let sums = [
            (&mut self.hits, later.hits),
            (&mut self.misses, later.misses),
            (&mut self.stores, later.stores),
            (&mut self.deletes, later.deletes),
            (&mut self.arithmetic, later.arithmetic),
            (&mut self.touches, later.touches),
            (&mut self.others, later.others),
            (&mut self.errors, later.errors),
            (&mut self.bytes_in, later.bytes_in),
            (&mut self.bytes_out, later.bytes_out),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
    }

    /// Converts to the store's type.
    pub(crate) fn to_usage(self) -> store::Usage {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        store::Usage {
            hits: number(self.hits),
            misses: number(self.misses),
            stores: number(self.stores),
            deletes: number(self.deletes),
            arithmetic: number(self.arithmetic),
            touches: number(self.touches),
            others: number(self.others),
            errors: number(self.errors),
            bytes_in: number(self.bytes_in),
            bytes_out: number(self.bytes_out),
        }
    }
}

impl Usage {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            hits: Cell::default(),
            misses: Cell::default(),
            stores: Cell::default(),
            deletes: Cell::default(),
            arithmetic: Cell::default(),
            touches: Cell::default(),
            others: Cell::default(),
            requests: Requests::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            bytes_taken: Cell::default(),
            large_values: Cell::new(false),
        }
    }

    /// Notes that a value was too large for a shared lane.
    pub(crate) fn saw_large_value(&self) {
        self.large_values.set(true);
    }

    /// Whether a value was too large for a shared lane.
    pub(crate) fn has_large_values(&self) -> bool {
        self.large_values.get()
    }

    /// The time, for [`Usage::answered`]. Wraps after 71 minutes; no request takes that long.
    pub(crate) fn now(&self) -> StartedAt {
        self.time().started_at()
    }

    /// The time, for what may be longer ago.
    pub(crate) fn time(&self) -> Time {
        Time(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Counts a request that was answered after `micros`.
    pub(crate) fn answered(
        &self,
        kind: CommandKind,
        format: ReplyFormat,
        outcome: &Outcome<'_>,
        micros: u32,
    ) {
        let count = match kind {
            CommandKind::Get | CommandKind::Meta { verb: Verb::Get, .. } => match outcome {
                Outcome::Value(..) | Outcome::Done(_) => &self.hits,
                _ => &self.misses,
            },
            CommandKind::Store(_) | CommandKind::Invalidate | CommandKind::Meta { verb: Verb::Set, .. } => {
                &self.stores
            }
            CommandKind::Delete | CommandKind::Meta { verb: Verb::Delete, .. } => &self.deletes,
            CommandKind::Arithmetic | CommandKind::Meta { verb: Verb::Arithmetic, .. } => &self.arithmetic,
            CommandKind::Touch => &self.touches,
            CommandKind::Version => &self.others,
        };
        add(count, 1);
        self.requests.answered(format, outcome, micros);
    }

    /// Counts a command that isn't about one key.
    pub(crate) fn other(&self) {
        add(&self.others, 1);
    }

    /// Counts bytes received from a client.
    pub(crate) fn read(&self, bytes: usize) {
        add_len(&self.bytes_in, bytes);
    }

    /// Counts bytes written to a client's socket.
    pub(crate) fn written(&self, bytes: usize) {
        add_len(&self.bytes_out, bytes);
    }

    /// Bytes both ways since the start.
    pub(crate) fn bytes(&self) -> u64 {
        let latest = self.bytes_in.get().saturating_add(self.bytes_out.get());
        self.bytes_taken.get().saturating_add(latest)
    }

    /// Whether nothing was counted since the last [`Usage::take`].
    pub(crate) fn is_reported(&self) -> bool {
        let counts = [
            &self.hits,
            &self.misses,
            &self.stores,
            &self.deletes,
            &self.arithmetic,
            &self.touches,
            &self.others,
            &self.bytes_in,
            &self.bytes_out,
        ];
        counts.iter().all(|count| count.get() == 0)
    }

    /// Returns the counts since the last call, and resets them.
    pub(crate) fn take(&self) -> (Counts, CountsByProtocol) {
        self.bytes_taken.set(self.bytes());
        let requests = self.requests.take();
        let counts = Counts {
            hits: self.hits.take(),
            misses: self.misses.take(),
            stores: self.stores.take(),
            deletes: self.deletes.take(),
            arithmetic: self.arithmetic.take(),
            touches: self.touches.take(),
            others: self.others.take(),
            errors: requests.iter().map(RequestCounts::errors).fold(0, u64::saturating_add),
            bytes_in: self.bytes_in.take(),
            bytes_out: self.bytes_out.take(),
        };
        (counts, requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::{Fault, ItemMeta, MetaFormat, TextFormat, ValueWanted};

    //
    #[test]
    fn what_was_read_long_ago_is_older_than_what_was_read_just_now() {
        let long_ago = Time::from_micros(5);
        let now = Time::from_micros(u64::from(u32::MAX) + 3);
        assert!(long_ago < now);
        assert_eq!(now.started_at(), StartedAt(2));
    }

    #[test]
    fn what_is_answered_is_counted_once() {
        let usage = Usage::new();
        let micros = StartedAt(90).since(StartedAt(u32::MAX - 9));
        let line = ReplyFormat::Text(TextFormat::Line { noreply: false });
        let value = ReplyFormat::Text(TextFormat::Value { with_cas: false, last: true });
        let meta = ReplyFormat::Meta(MetaFormat { verb: Verb::Get, quiet: false });
        for (kind, format, outcome) in [
            (CommandKind::Get, value, Outcome::Value(ItemMeta::default(), b"x")),
            (CommandKind::Meta { verb: Verb::Get, value: ValueWanted::Yes }, meta, Outcome::Miss),
            (CommandKind::Touch, line, Outcome::Failed(Fault::TimedOut)),
        ] {
            usage.answered(kind, format, &outcome, micros);
        }
        usage.written(7);
        let (counts, [text, meta, binary]) = usage.take();
        let expected =
            Counts { hits: 1, misses: 1, touches: 1, errors: 1, bytes_out: 7, ..Counts::default() };
        assert_eq!(counts, expected);
        // 100 us: more than 64, less than 128.
        assert_eq!((text.latency[7], meta.latency[7], binary), (2, 1, RequestCounts::default()));
        assert_eq!((text.micros, meta.micros), (200, 100));
        assert_eq!((text.timed_out, text.unavailable, meta.errors()), (1, 0, 0));
        assert!(usage.is_reported());
        assert_eq!(usage.take().0, Counts::default());
        usage.read(1);
        assert!(!usage.is_reported());
    }
}
