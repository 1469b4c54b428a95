//! Generates binary requests, most of them valid.

use testkit::binary::Request;

use super::stream::{Generator, Protocol, a_key, a_value, cas_of, number, pick};

const OPAQUE: [u8; 4] = *b"opaq";
/// None of these expires while the test runs.
const EXPTIMES: [u32; 9] = [0, 0, 0, 100, 2_592_000, 2_592_001, 2_000_000_000, 0x8000_0000, u32::MAX];
const DELTAS: [u64; 7] = [0, 1, 5, 99, 1 << 40, 1 << 63, u64::MAX];
/// The last ones of `DELTAS`, from 2^63 on.
const DELTAS_HIGH: usize = 2;
const WITHOUT_KEY: [u8; 5] = [0x0a, 0x0a, 0x0b, 0x08, 0x18];

/// A no-op: answered as long as the connection is open.
pub(crate) fn noop() -> Vec<u8> {
    Request { opcode: 0x0a, opaque: OPAQUE, ..Request::default() }.encode()
}

pub(crate) fn request(rng: &mut Generator) -> Vec<u8> {
    let key = key(rng);
    let cas = match rng.below(10) {
        0 | 1 => cas_of(Protocol::Binary, &key),
        2 => *pick(rng, &[1, 99, u64::MAX]),
        _ => 0,
    };
    let (opcode, extras, value) = match rng.below(100) {
        0..25 => (*pick(rng, &[0x00, 0x09, 0x0c, 0x0d]), vec![], vec![]),
        25..35 => (*pick(rng, &[0x1c, 0x1d, 0x1e, 0x23, 0x24]), exptime(rng).into(), vec![]),
        35..60 => {
            let opcode = *pick(rng, &[0x01, 0x01, 0x02, 0x03, 0x11, 0x11, 0x12, 0x13]);
            let flags = pick(rng, &[0_u32, 0, 5, u32::MAX]).to_be_bytes();
            (opcode, [flags, exptime(rng)].concat(), a_value(key.len(), rng))
        }
        60..70 => (*pick(rng, &[0x0e, 0x0f, 0x19, 0x1a]), vec![], a_value(key.len(), rng)),
        70..82 => {
            let opcode = *pick(rng, &[0x05, 0x06, 0x15, 0x16]);
            let [delta, initial] = [(); 2].map(|()| number(&DELTAS, DELTAS_HIGH, rng).to_be_bytes());
            (opcode, [&delta[..], &initial, &exptime(rng)].concat(), vec![])
        }
        82..93 => (*pick(rng, &[0x04, 0x04, 0x14]), vec![], vec![]),
        93..97 => {
            let opcode = *pick(rng, &WITHOUT_KEY);
            return Request { opcode, opaque: OPAQUE, cas, ..Request::default() }.encode();
        }
        97 => {
            let opcode = u8::try_from(rng.below(256)).unwrap();
            return Request { opcode, opaque: OPAQUE, cas, ..Request::default() }.encode();
        }
        _ => (u8::try_from(rng.below(0x26)).unwrap(), vec![0; *pick(rng, &[0, 4, 8, 20])], vec![]),
    };
    Request { opcode, extras: &extras, key: &key, value: &value, opaque: OPAQUE, cas }.encode()
}

fn key(rng: &mut Generator) -> Vec<u8> {
    match rng.below(300) {
        0 => vec![b'K'; 251 + rng.below(9)],
        1 => vec![b' '; 187 + rng.below(64)],
        2 => vec![],
        _ => a_key(Protocol::Binary, rng),
    }
}

fn exptime(rng: &mut Generator) -> [u8; 4] {
    pick(rng, &EXPTIMES).to_be_bytes()
}
