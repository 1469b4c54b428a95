//! What the proxy may say other than memcached, and nothing else: the named differences D-1 to D-12, and what
//! versions before 1.6.45 say to requests that are none (the proxy answers those as 1.6.45 does).
//!
//! A stream is read as the proxy should read it. Where memcached may do otherwise, it is sent another request
//! in place of that one, which makes it say and do what the proxy should; or it is sent no more, and the proxy
//! must say certain last words and close. All else must be the same.

#[path = "differences/binary.rs"]
mod binary;
#[path = "differences/meta.rs"]
mod meta;
#[path = "differences/text.rs"]
mod text;

use std::borrow::Cow;
use std::collections::HashSet;

use super::stream::Protocol;

/// Whose words a memcached speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// 1.6.45 and later.
    Model,
    /// Before.
    Old,
}

/// One request of a stream.
struct Frame<'a> {
    length: usize,
    rule: Rule,
    change: Change<'a>,
    /// The highest number in it that is, or may be, counted with.
    highest: u64,
    /// Versions before 1.6.45 needn't know it.
    newer: bool,
    /// What it reads somebody may have won: one that keeps its place keeps the mark of that.
    marks: bool,
    /// What it reads.
    reads: Vec<Cow<'a, [u8]>>,
    /// What it makes into something else, or ends.
    writes: Option<Cow<'a, [u8]>>,
}

impl Frame<'_> {
    /// Something that leaves nothing in the cache.
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

/// Numbers so high older versions count with only when there is no minus in whatever lies behind them; and a
/// few of half that size come to as much.
const HIGH: u64 = 1 << 59;

/// What a request does to the value of a key.
enum Change<'a> {
    None,
    /// A number that has become shorter may keep its length, with spaces, or not: memcached does the one or
    /// the other as replies are still on their way out.
    Counts(Cow<'a, [u8]>),
    /// The same, and the time to live of one that keeps its place changes.
    CountsAndTouches(Cow<'a, [u8]>),
    /// Makes those spaces a part of the value, or tells of them.
    Shows(Cow<'a, [u8]>),
    /// Makes it stale: whoever asks for it by meta next wins (D-12).
    Stales(Cow<'a, [u8]>),
}

enum Rule {
    /// Both say and do the same.
    Same,
    /// The same, and both close.
    Closes,
    /// memcached says and does to this what the proxy does to the other.
    Instead(Vec<u8>),
    /// The proxy says this and closes; memcached doesn't see it.
    Ends(Vec<u8>),
    /// Nobody is sent this, nor what follows.
    Stop,
    /// More bytes, please: both wait.
    Waits,
}

/// What each is sent, and how it must end.
pub(crate) struct Plan {
    pub(crate) reference: Vec<u8>,
    pub(crate) proxy: Vec<u8>,
    /// What only the proxy says, behind what both say.
    pub(crate) last_words: Vec<u8>,
    pub(crate) end: End,
    /// Keys that it names.
    pub(crate) keys: HashSet<Vec<u8>>,
    only_proxy_closes: bool,
}

impl Plan {
    /// memcached doesn't close where only the proxy does.
    pub(crate) fn end_of_reference(&self) -> End {
        if self.only_proxy_closes { End::Open } else { self.end }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The probe is answered.
    Open,
    Closed,
    /// In the middle of something.
    Waits,
}

/// Reads `stream`, behind which `probe` is sent, as long as that makes sense; `columns` are the reference's and
/// that of the memcached behind the door.
pub(crate) fn plan(protocol: Protocol, mut stream: Vec<u8>, probe: &[u8], columns: [Column; 2]) -> Plan {
    let first = match protocol {
        Protocol::Text | Protocol::Meta => text::first,
        Protocol::Binary => binary::first,
    };
    let begun = stream.len();
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
        if (highest >= HIGH || newer) && columns.contains(&Column::Old) {
            rule = Rule::Stop;
        }
        read.extend(reads.iter().map(|key| key.to_vec()));
        if marks {
            marked.extend(reads.iter().map(|key| key.to_vec()));
        }
        let named: Vec<_> = writes.into_iter().chain(reads).map(Cow::into_owned).collect();
        if !meta::VERBS.iter().any(|verb| frame.starts_with(verb))
            && named.iter().any(|key| stale.contains(key))
        {
            rule = Rule::Stop;
        }
        match change {
            Change::Shows(key) if counted.contains(&*key) => rule = Rule::Stop,
            // Counted in its place, an item stays stale and marked; as a new one it isn't.
            Change::Counts(key) | Change::CountsAndTouches(key)
                if stale.contains(&*key) || marked.contains(&*key) =>
            {
                rule = Rule::Stop;
            }
            Change::CountsAndTouches(key) if read.contains(&*key) => rule = Rule::Stop,
            Change::Counts(key) | Change::CountsAndTouches(key) => drop(counted.insert(key.into_owned())),
            Change::Stales(key) => drop(stale.insert(key.into_owned())),
            Change::Shows(_) | Change::None => {}
        }
        keys.extend(named);
        let only_proxy_closes = matches!(rule, Rule::Ends(_));
        let (last_words, end) = match rule {
            Rule::Stop if at < begun => {
                stream.truncate(at);
                return plan(protocol, stream, probe, columns);
            }
            Rule::Same | Rule::Stop => {
                reference.extend_from_slice(frame);
                at += length;
                continue;
            }
            Rule::Instead(other) => {
                reference.extend(other);
                at += length;
                continue;
            }
            Rule::Closes => {
                reference.extend_from_slice(frame);
                (Vec::new(), End::Closed)
            }
            Rule::Ends(words) => (words, End::Closed),
            // What memcached has to say it keeps to itself as long as it waits, and for ever when nothing comes.
            Rule::Waits => (Vec::new(), End::Waits),
        };
        return Plan { reference, proxy: stream, last_words, end, keys, only_proxy_closes };
    }
    let last_words = Vec::new();
    Plan { reference, proxy: stream, last_words, end: End::Open, keys, only_proxy_closes: false }
}

/// What memcached adds to the key and value of an item, and to flags that aren't 0.
const HEADER: usize = 59;
const FLAGS: usize = 4;
const ITEM_SIZE_MAX: usize = 1024 * 1024;

/// Whether an item is more than memcached takes: its value is read, and dropped.
fn too_large(key: usize, value: usize, flags: u32) -> bool {
    HEADER + key + value + if flags == 0 { 0 } else { FLAGS } > ITEM_SIZE_MAX
}

/// Whether what is to be appended is kept in chunks because of its flags only, which the item it comes to hasn't
/// got: memcached then reads past its end. The proxy sends it none.
fn overruns(key: usize, value: usize, flags: u32) -> bool {
    const CHUNK: usize = 512 * 1024;
    flags != 0 && (CHUNK..=CHUNK + FLAGS).contains(&(HEADER + key + value + FLAGS))
}

/// White space and nothing else: looking for a number in it memcached reads on behind it, whatever is there.
fn is_blank(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
}

/// The number that a value begins with; 0 if there is none.
fn number_in(value: &[u8]) -> u64 {
    let value = value.trim_ascii_start();
    let value = value.strip_prefix(b"+").unwrap_or(value);
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
