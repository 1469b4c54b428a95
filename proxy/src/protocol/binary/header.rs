//! The parts of binary messages: header, opcodes, statuses (memcached's protocol_binary.h).

use crate::protocol::request::BinaryFormat;

/// The length of a header, in bytes.
pub(crate) const HEADER: usize = 24;
/// The largest body that memcached accepts: 1 GiB.
pub(crate) const BODY_MAX: u32 = 0x4000_0000;

/// Opcodes that are used by name.
pub(crate) mod opcode {
    pub(crate) const FLUSH: u8 = 0x08;
    pub(crate) const VERSION: u8 = 0x0b;
    pub(crate) const STAT: u8 = 0x10;
    pub(crate) const FLUSH_QUIETLY: u8 = 0x18;
    pub(crate) const SASL_LIST: u8 = 0x20;
    pub(crate) const SASL_AUTH: u8 = 0x21;
    pub(crate) const SASL_STEP: u8 = 0x22;
}

/// A status and its text, as memcached sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16, pub(crate) &'static [u8]);

impl Status {
    pub(crate) const OK: Self = Self(0x0000, b"");
    pub(crate) const NOT_FOUND: Self = Self(0x0001, b"Not found");
    pub(crate) const EXISTS: Self = Self(0x0002, b"Data exists for key.");
    pub(crate) const TOO_LARGE: Self = Self(0x0003, b"Too large.");
    pub(crate) const INVALID: Self = Self(0x0004, b"Invalid arguments");
    pub(crate) const NOT_STORED: Self = Self(0x0005, b"Not stored.");
    pub(crate) const NON_NUMERIC: Self = Self(0x0006, b"Non-numeric server-side value for incr or decr");
    pub(crate) const AUTH_FAILURE: Self = Self(0x0020, b"Auth failure.");
    pub(crate) const CONTINUE: Self = Self(0x0021, b"");
    pub(crate) const UNKNOWN: Self = Self(0x0081, b"Unknown command");
    pub(crate) const OUT_OF_MEMORY: Self = Self(0x0082, b"Out of memory");
    pub(crate) const BUSY: Self = Self(0x0085, b"Busy");
    pub(crate) const TEMPORARY: Self = Self(0x0086, b"Temporary failure");
}

/// The header of a request. `key`, `extras` and `body` are lengths in bytes; the body includes the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) magic: u8,
    pub(crate) opcode: u8,
    pub(crate) key: usize,
    pub(crate) extras: usize,
    pub(crate) body: u32,
    pub(crate) opaque: [u8; 4],
    pub(crate) cas: u64,
}

impl Header {
    /// Reads the first 24 bytes of `input`; `None` if there are fewer.
    pub(crate) fn read(input: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = input.first_chunk()?;
        let [magic, opcode, k1, k2, extras, _, _, _, b1, b2, b3, b4, o1, o2, o3, o4, cas @ ..] = *bytes;
        Some(Self {
            magic,
            opcode,
            key: usize::from(u16::from_be_bytes([k1, k2])),
            extras: usize::from(extras),
            body: u32::from_be_bytes([b1, b2, b3, b4]),
            opaque: [o1, o2, o3, o4],
            cas: u64::from_be_bytes(cas),
        })
    }

    pub(crate) fn body_len(&self) -> usize {
        usize::try_from(self.body).unwrap_or(usize::MAX)
    }

    /// How the client expects the reply.
    pub(super) fn format(&self) -> BinaryFormat {
        BinaryFormat { opcode: self.opcode, opaque: self.opaque }
    }
}

/// The parts of a reply behind its header, and the header's cas.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) extras: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) cas: u64,
}
