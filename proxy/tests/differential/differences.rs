//! The oracle: where the proxy may differ from memcached, and nowhere else: the named differences D-1 to
//! D-12 of docs/protocol.md, and requests that versions before 1.6.45 answer in another way than 1.6.45
//! and the proxy.
//!
//! It parses a stream as the proxy should. Where memcached may differ, memcached is sent another request
//! instead, which makes it reply and act as the proxy should; or it is sent nothing more, and the proxy
//! must send a certain error and close. Everything else must be the same.

mod binary;
mod meta;
mod text;

use std::borrow::Cow;
use std::collections::HashSet;

use super::stream::Protocol;

/// The behaviour of a memcached's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// 1.6.45 and later.
    Reference,
    /// Before 1.6.45.
    Older,
}

/// One request of a stream.
struct Frame<'a> {
    length: usize,
    rule: Rule,
    change: Change<'a>,
    /// The highest number in it that arithmetic may use.
    highest: u64,
    /// Versions before 1.6.45 may not know it.
    newer: bool,
    /// Its reads may mark an item as won for recache; an item updated in place keeps the mark.
    marks: bool,
    /// Keys that it reads.
    reads: Vec<Cow<'a, [u8]>>,
    /// The key that it changes.
    writes: Option<Cow<'a, [u8]>>,
}

impl Frame<'_> {
    /// A request that changes nothing in the cache.
    fn of(length: usize, rule: Rule) -> Self {
        Self {
            length,
            rule,
            change: Change::None,
            highest: 0,
            newer: false,
            marks: false,
            reads: Vec::new(),
            writes: None,
        }
    }
}

/// With numbers from here on, older versions do arithmetic only if no minus follows the number in memory.
/// Half of their limit, because a few additions reach it.
const HIGH: u64 = 1 << 59;

/// What a request does to a key's value.
enum Change<'a> {
    None,
    /// A number with fewer digits than before may keep its length, padded with spaces: memcached
    /// decides by whether replies still reference the item.
    Arithmetic(Cow<'a, [u8]>),
    /// The same, and it changes the TTL of an item updated in place.
    ArithmeticWithTtl(Cow<'a, [u8]>),
    /// Makes those spaces a part of the value, or shows them.
    Concatenates(Cow<'a, [u8]>),
    /// Marks it stale: the next meta get wins (D-12).
    MarksStale(Cow<'a, [u8]>),
}

enum Rule {
    /// Both reply and act the same.
    Same,
    /// The same, and both close.
    BothClose,
    /// memcached replies to this, and acts on it, as the proxy does to the original.
    Replace(Vec<u8>),
    /// The proxy replies so and closes; memcached isn't sent the request.
    ProxyCloses(Vec<u8>),
    /// Neither is sent this request, nor any after it.
    Skip,
    /// Incomplete: both wait for more bytes.
    Incomplete,
}

/// What each side is sent, and how its connection must end.
pub(crate) struct Plan {
    pub(crate) reference: Vec<u8>,
    pub(crate) proxy: Vec<u8>,
    /// What the proxy sends in addition, at the end.
    pub(crate) proxy_only: Vec<u8>,
    pub(crate) end: End,
    /// Keys that the requests name.
    pub(crate) keys: HashSet<Vec<u8>>,
    only_proxy_closes: bool,
}

impl Plan {
    /// memcached stays open where only the proxy closes.
    pub(crate) fn end_of_reference(&self) -> End {
        if self.only_proxy_closes { End::Open } else { self.end }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The probe is answered.
    Open,
    Closed,
    /// Within a request.
    Waits,
}

/// Parses `stream`, which `probe` follows, as far as both sides can be compared; `columns` are the
/// versions of the reference and of the memcached behind the proxy.
pub(crate) fn plan(protocol: Protocol, mut stream: Vec<u8>, probe: &[u8], columns: [Column; 2]) -> Plan {
    let first = match protocol {
        Protocol::Text | Protocol::Meta => text::first,
        Protocol::Binary => binary::first,
    };
    let started = stream.len();
    stream.extend_from_slice(probe);
    let mut reference = Vec::new();
    let [mut keys, mut read, mut marked, mut counted, mut stale] =
        std::array::from_fn(|_| HashSet::<Vec<u8>>::new());
    let mut at = 0;
    while at < stream.len() {
        let rest = &stream[at..];
        let Frame { length, mut rule, change, highest, newer, marks, reads, writes } =
            first(rest, columns[0]);
        let frame = &rest[..length];
        if (highest >= HIGH || newer) && columns.contains(&Column::Older) {
            rule = Rule::Skip;
        }
        read.extend(reads.iter().map(|key| key.to_vec()));
        if marks {
            marked.extend(reads.iter().map(|key| key.to_vec()));
        }
        let named: Vec<_> = writes.into_iter().chain(reads).map(Cow::into_owned).collect();
        if !meta::VERBS.iter().any(|verb| frame.starts_with(verb))
            && named.iter().any(|key| stale.contains(key))
        {
            rule = Rule::Skip;
        }
        match change {
            Change::Concatenates(key) if counted.contains(&*key) => rule = Rule::Skip,
            // An item updated in place stays stale and marked; a new one doesn't.
            Change::Arithmetic(key) | Change::ArithmeticWithTtl(key)
                if stale.contains(&*key) || marked.contains(&*key) =>
            {
                rule = Rule::Skip;
            }
            Change::ArithmeticWithTtl(key) if read.contains(&*key) => rule = Rule::Skip,
            Change::Arithmetic(key) | Change::ArithmeticWithTtl(key) => {
                counted.insert(key.into_owned());
            }
            Change::MarksStale(key) => {
                stale.insert(key.into_owned());
            }
            Change::Concatenates(_) | Change::None => {}
        }
        keys.extend(named);
        let only_proxy_closes = matches!(rule, Rule::ProxyCloses(_));
        let (proxy_only, end) = match rule {
            Rule::Skip if at < started => {
                stream.truncate(at);
                return plan(protocol, stream, probe, columns);
            }
            Rule::Same | Rule::Skip => {
                reference.extend_from_slice(frame);
                at += length;
                continue;
            }
            Rule::Replace(other) => {
                reference.extend(other);
                at += length;
                continue;
            }
            Rule::BothClose => {
                reference.extend_from_slice(frame);
                (Vec::new(), End::Closed)
            }
            Rule::ProxyCloses(words) => (words, End::Closed),
            // While memcached waits for the rest, it may hold its replies back.
            Rule::Incomplete => (Vec::new(), End::Waits),
        };
        return Plan { reference, proxy: stream, proxy_only, end, keys, only_proxy_closes };
    }
    let proxy_only = Vec::new();
    Plan { reference, proxy: stream, proxy_only, end: End::Open, keys, only_proxy_closes: false }
}

/// The size that memcached adds to an item's key and value, and to flags that aren't 0.
const HEADER: usize = 59;
const FLAGS: usize = 4;
const ITEM_SIZE_MAX: usize = 1024 * 1024;

/// Whether memcached rejects an item of this size; it discards the value.
fn too_large(key: usize, value: usize, flags: u32) -> bool {
    HEADER + key + value + if flags == 0 { 0 } else { FLAGS } > ITEM_SIZE_MAX
}

/// Whether an appended value is stored in chunks only because of its flags, which the resulting item
/// doesn't have: memcached then reads beyond its end. The proxy never sends that.
fn overruns(key: usize, value: usize, flags: u32) -> bool {
    const CHUNK: usize = 512 * 1024;
    flags != 0 && (CHUNK..=CHUNK + FLAGS).contains(&(HEADER + key + value + FLAGS))
}

/// Whether a value is only white space: memcached, looking for a number, reads beyond it.
fn is_blank(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
}

/// Returns the number that a value begins with; 0 if there is none.
fn number_in(value: &[u8]) -> u64 {
    let value = value.trim_ascii_start();
    let value = value.strip_prefix(b"+").unwrap_or(value);
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
