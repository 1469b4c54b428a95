//! Streams of requests, the items in the cache before them, and building blocks for requests.

use std::ops::{Deref, DerefMut};

use testkit::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Meta,
    Binary,
}

#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) protocol: Protocol,
    /// The items in the cache before.
    pub(crate) items: Vec<Item>,
    /// Split for the reducer; corrupted ones may not be whole requests.
    pub(crate) requests: Vec<Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) flags: u32,
    pub(crate) exptime: i64,
}

/// The random source of a stream.
pub(crate) struct Generator {
    pub(crate) rng: Rng,
    /// Whether arithmetic may use numbers from 2^63 on.
    pub(crate) high: bool,
}

impl Deref for Generator {
    type Target = Rng;

    fn deref(&self) -> &Rng {
        &self.rng
    }
}

impl DerefMut for Generator {
    fn deref_mut(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

/// A placeholder for an item's cas: each memcached assigns its own.
const CAS: u64 = 0x8963_dd8c_2c5e_0000;

/// Returns the placeholder for the cas of the item with `key`, or the first one.
pub(crate) fn cas_of(protocol: Protocol, key: &[u8]) -> u64 {
    let place = keys(protocol).iter().position(|own| own == key);
    CAS + u64::try_from(place.unwrap_or_default()).unwrap()
}

/// Returns `request` with the items' cas values in place of the placeholders.
pub(crate) fn filled(protocol: Protocol, request: &[u8], cas: &[Option<u64>]) -> Vec<u8> {
    const NONE: u64 = 77_777_777;
    /// Only values follow after this many bytes.
    const HEAD: usize = 700;
    let (head, rest) = request.split_at(request.len().min(HEAD));
    let mut out = head.to_vec();
    for (mark, cas) in (CAS..).zip(cas) {
        let cas = cas.unwrap_or(NONE);
        let (mark, cas) = match protocol {
            Protocol::Text | Protocol::Meta => (mark.to_string().into_bytes(), cas.to_string().into_bytes()),
            Protocol::Binary => (mark.to_be_bytes().into(), cas.to_be_bytes().into()),
        };
        while let Some(at) = memchr::memmem::find(&out, &mark) {
            out.splice(at..at + mark.len(), cas.iter().copied());
        }
    }
    out.extend_from_slice(rest);
    out
}

/// The keys that streams use.
pub(crate) fn keys(protocol: Protocol) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> =
        [&b"a"[..], b"b", b"n", b"key:1", b"\xff\xfe", b"t\tb"].map(Into::into).into();
    keys.push([b'k'; 250].into());
    if protocol != Protocol::Text {
        keys.extend([b"a b".to_vec(), b"\0\r\n".to_vec(), [b' '; 186].into()]);
    }
    keys
}

pub(crate) fn pick<'a, T>(rng: &mut Rng, all: &'a [T]) -> &'a T {
    &all[rng.below(all.len())]
}

/// Returns true `per_mille` times in a thousand.
pub(crate) fn rarely(rng: &mut Rng, per_mille: usize) -> bool {
    rng.below(1000) < per_mille
}

pub(crate) fn a_key(protocol: Protocol, rng: &mut Rng) -> Vec<u8> {
    let keys = keys(protocol);
    // Mostly the first ones, so that requests share keys.
    let few = if rarely(rng, 700) { 3 } else { keys.len() };
    keys[rng.below(few)].clone()
}

/// Returns one of `all`, whose last `high` numbers are from 2^63 on.
pub(crate) fn number<'a, T>(all: &'a [T], high: usize, rng: &mut Generator) -> &'a T {
    let all = if rng.high { all } else { &all[..all.len() - high] };
    pick(rng, all)
}

pub(crate) fn a_value(key: usize, rng: &mut Generator) -> Vec<u8> {
    const NUMBERS: [&[u8]; 9] =
        [b"0", b"1", b"5", b"10", b"99", b" 7", b"+3", b"18446744073709551615", b"18446744073709551616"];
    const HIGH: usize = 2;
    match rng.below(1000) {
        0..350 => number(&NUMBERS, HIGH, rng).to_vec(),
        350..650 => b"value".repeat(rng.below(4)),
        650..800 => pick(rng, &[&b"get a\r\n"[..], b"\x80\x00", b"END\r\n", b"\0", b"a\r"]).to_vec(),
        800..960 => vec![b'm'; rng.below(300)],
        960..995 => vec![b'l'; rng.below(20_000)],
        _ => vec![b'x'; large(key, rng)],
    }
}

/// Lengths close to the sizes at which memcached or the proxy change their behaviour.
fn large(key: usize, rng: &mut Rng) -> usize {
    /// memcached's largest item, its overhead, and the size from which it stores items in chunks.
    const ITEM: usize = 1024 * 1024;
    const HEADER: usize = 59;
    const CHUNK: usize = 512 * 1024;
    const STREAMED: usize = 128 * 1024;
    let near = |size: usize, rng: &mut Rng| size - 4 + rng.below(9);
    match rng.below(8) {
        0 => near(STREAMED, rng),
        1 => STREAMED + rng.below(STREAMED),
        2 => near(CHUNK - HEADER - key, rng),
        3 => near(CHUNK, rng),
        4 => CHUNK + rng.below(CHUNK),
        5 => near(ITEM, rng),
        6 => ITEM + rng.below(STREAMED),
        _ => near(ITEM - HEADER - key, rng),
    }
}

pub(crate) fn items(protocol: Protocol, rng: &mut Generator) -> Vec<Item> {
    let mut items = Vec::new();
    for key in keys(protocol) {
        if !rarely(rng, 300) {
            // Items in the cache are small: large values come with requests.
            let mut value = a_value(key.len(), rng);
            value.truncate(400);
            let flags = *pick(rng, &[0, 0, 5, u32::MAX]);
            let exptime = *pick(rng, &[0, 0, 1000, 2_000_000_000]);
            items.push(Item { key, value, flags, exptime });
        }
    }
    items
}
