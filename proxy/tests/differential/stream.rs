//! A stream of requests, what is in the cache before it, and words to make requests of.

use std::ops::{Deref, DerefMut};

use super::dice::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Meta,
    Binary,
}

#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) protocol: Protocol,
    /// What is in the cache before.
    pub(crate) items: Vec<Item>,
    /// Cut up for whoever looks for the one that matters; mutated ones may be no requests at all.
    pub(crate) requests: Vec<Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) flags: u32,
    pub(crate) exptime: i64,
}

/// Decides what is made.
pub(crate) struct Maker {
    pub(crate) dice: Dice,
    /// Whether numbers from 2^63 on may be counted with.
    pub(crate) high: bool,
}

impl Deref for Maker {
    type Target = Dice;

    fn deref(&self) -> &Dice {
        &self.dice
    }
}

impl DerefMut for Maker {
    fn deref_mut(&mut self) -> &mut Dice {
        &mut self.dice
    }
}

/// Stands for the cas of an item in what is sent: each memcached counts its own.
const CAS: u64 = 0x8963_dd8c_2c5e_0000;

/// What stands for the cas of the item with `key`, if it is one of ours.
pub(crate) fn cas_of(protocol: Protocol, key: &[u8]) -> u64 {
    let place = keys(protocol).iter().position(|own| own == key);
    CAS + u64::try_from(place.unwrap_or_default()).unwrap()
}

/// `request` with the cas of each item in place of what stands for it.
pub(crate) fn filled(protocol: Protocol, request: &[u8], cas: &[Option<u64>]) -> Vec<u8> {
    const NONE: u64 = 77_777_777;
    /// Behind these bytes is nothing but values.
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

pub(crate) fn pick<'a, T>(dice: &mut Dice, all: &'a [T]) -> &'a T {
    &all[dice.below(all.len())]
}

/// Whether something happens that happens so often in a thousand times.
pub(crate) fn rarely(dice: &mut Dice, per_mille: usize) -> bool {
    dice.below(1000) < per_mille
}

pub(crate) fn a_key(protocol: Protocol, dice: &mut Dice) -> Vec<u8> {
    let keys = keys(protocol);
    // Most of them the first: requests shall meet.
    let few = if rarely(dice, 700) { 3 } else { keys.len() };
    keys[dice.below(few)].clone()
}

/// One of numbers, the last few of which are high.
pub(crate) fn number<'a, T>(all: &'a [T], high: usize, dice: &mut Maker) -> &'a T {
    let all = if dice.high { all } else { &all[..all.len() - high] };
    pick(dice, all)
}

pub(crate) fn a_value(key: usize, dice: &mut Maker) -> Vec<u8> {
    const NUMBERS: [&[u8]; 9] =
        [b"0", b"1", b"5", b"10", b"99", b" 7", b"+3", b"18446744073709551615", b"18446744073709551616"];
    const HIGH: usize = 2;
    match dice.below(1000) {
        0..350 => number(&NUMBERS, HIGH, dice).to_vec(),
        350..650 => b"value".repeat(dice.below(4)),
        650..800 => pick(dice, &[&b"get a\r\n"[..], b"\x80\x00", b"END\r\n", b"\0", b"a\r"]).to_vec(),
        800..960 => vec![b'm'; dice.below(300)],
        960..995 => vec![b'l'; dice.below(20_000)],
        _ => vec![b'x'; large(key, dice)],
    }
}

/// Lengths about the sizes at which somebody does something else.
fn large(key: usize, dice: &mut Dice) -> usize {
    /// What a memcached takes, its own part of it, and where it begins to cut items up.
    const ITEM: usize = 1024 * 1024;
    const HEADER: usize = 59;
    const CHUNK: usize = 512 * 1024;
    const STREAMED: usize = 128 * 1024;
    let near = |size: usize, dice: &mut Dice| size - 4 + dice.below(9);
    match dice.below(8) {
        0 => near(STREAMED, dice),
        1 => STREAMED + dice.below(STREAMED),
        2 => near(CHUNK - HEADER - key, dice),
        3 => near(CHUNK, dice),
        4 => CHUNK + dice.below(CHUNK),
        5 => near(ITEM, dice),
        6 => ITEM + dice.below(STREAMED),
        _ => near(ITEM - HEADER - key, dice),
    }
}

pub(crate) fn items(protocol: Protocol, dice: &mut Maker) -> Vec<Item> {
    let mut items = Vec::new();
    for key in keys(protocol) {
        if !rarely(dice, 300) {
            // What is there is small: large ones come with requests.
            let mut value = a_value(key.len(), dice);
            value.truncate(400);
            let flags = *pick(dice, &[0, 0, 5, u32::MAX]);
            let exptime = *pick(dice, &[0, 0, 1000, 2_000_000_000]);
            items.push(Item { key, value, flags, exptime });
        }
    }
    items
}
