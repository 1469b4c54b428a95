//! Binary requests, most of them good.

use super::stream::{Maker, Protocol, a_key, a_value, cas_of, number, pick};

const OPAQUE: [u8; 4] = *b"opaq";
/// None that ends while we look.
const EXPTIMES: [u32; 9] = [0, 0, 0, 100, 2_592_000, 2_592_001, 2_000_000_000, 0x8000_0000, u32::MAX];
const DELTAS: [u64; 7] = [0, 1, 5, 99, 1 << 40, 1 << 63, u64::MAX];
/// Of those, at the end.
const DELTAS_HIGH: usize = 2;
const WITHOUT_KEY: [u8; 5] = [0x0a, 0x0a, 0x0b, 0x08, 0x18];

pub(crate) struct Message<'a> {
    pub(crate) opcode: u8,
    pub(crate) extras: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) cas: u64,
}

pub(crate) fn message(message: &Message<'_>) -> Vec<u8> {
    let Message { opcode, extras, key, value, cas } = message;
    let mut out = vec![0x80, *opcode];
    out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    out.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    out.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    out.extend(OPAQUE);
    out.extend(cas.to_be_bytes());
    out.extend([*extras, *key, *value].concat());
    out
}

/// A no-op, which is answered whenever anything is.
pub(crate) fn noop() -> Vec<u8> {
    message(&Message { opcode: 0x0a, extras: b"", key: b"", value: b"", cas: 0 })
}

pub(crate) fn request(dice: &mut Maker) -> Vec<u8> {
    let key = key(dice);
    let cas = match dice.below(10) {
        0 | 1 => cas_of(Protocol::Binary, &key),
        2 => *pick(dice, &[1, 99, u64::MAX]),
        _ => 0,
    };
    let (opcode, extras, value) = match dice.below(100) {
        0..25 => (*pick(dice, &[0x00, 0x09, 0x0c, 0x0d]), vec![], vec![]),
        25..35 => (*pick(dice, &[0x1c, 0x1d, 0x1e, 0x23, 0x24]), exptime(dice).into(), vec![]),
        35..60 => {
            let opcode = *pick(dice, &[0x01, 0x01, 0x02, 0x03, 0x11, 0x11, 0x12, 0x13]);
            let flags = pick(dice, &[0_u32, 0, 5, u32::MAX]).to_be_bytes();
            (opcode, [flags, exptime(dice)].concat(), a_value(key.len(), dice))
        }
        60..70 => (*pick(dice, &[0x0e, 0x0f, 0x19, 0x1a]), vec![], a_value(key.len(), dice)),
        70..82 => {
            let opcode = *pick(dice, &[0x05, 0x06, 0x15, 0x16]);
            let [delta, initial] = [(); 2].map(|()| number(&DELTAS, DELTAS_HIGH, dice).to_be_bytes());
            (opcode, [&delta[..], &initial, &exptime(dice)].concat(), vec![])
        }
        82..93 => (*pick(dice, &[0x04, 0x04, 0x14]), vec![], vec![]),
        93..97 => {
            let opcode = *pick(dice, &WITHOUT_KEY);
            return message(&Message { opcode, extras: b"", key: b"", value: b"", cas });
        }
        97 => {
            let opcode = u8::try_from(dice.below(256)).unwrap();
            return message(&Message { opcode, extras: b"", key: b"", value: b"", cas });
        }
        _ => (u8::try_from(dice.below(0x26)).unwrap(), vec![0; *pick(dice, &[0, 4, 8, 20])], vec![]),
    };
    message(&Message { opcode, extras: &extras, key: &key, value: &value, cas })
}

fn key(dice: &mut Maker) -> Vec<u8> {
    match dice.below(300) {
        0 => vec![b'K'; 251 + dice.below(9)],
        1 => vec![b' '; 187 + dice.below(64)],
        2 => vec![],
        _ => a_key(Protocol::Binary, dice),
    }
}

fn exptime(dice: &mut Maker) -> [u8; 4] {
    pick(dice, &EXPTIMES).to_be_bytes()
}
