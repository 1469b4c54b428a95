//! Messages of the binary protocol, as memcached's protocol_binary.xml describes them.

use store::Token;

/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;
/// Bytes of a header.
pub const HEADER_LEN: usize = 24;

/// A request's header. Its lengths needn't be those of what follows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    /// What to do.
    pub opcode: u8,
    /// Length of the key in bytes.
    pub key_len: u16,
    /// Length of the extras in bytes.
    pub extras_len: u8,
    /// Length of extras, key and value together, in bytes.
    pub body_len: u32,
    /// Returned in the reply.
    pub opaque: [u8; 4],
    /// The item's expected cas value; 0: any.
    pub cas: u64,
}

impl Header {
    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..2].copy_from_slice(&[REQUEST_MAGIC, self.opcode]);
        out[2..4].copy_from_slice(&self.key_len.to_be_bytes());
        out[4] = self.extras_len;
        out[8..12].copy_from_slice(&self.body_len.to_be_bytes());
        out[12..16].copy_from_slice(&self.opaque);
        out[16..].copy_from_slice(&self.cas.to_be_bytes());
        out
    }
}

/// A well-formed request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// What to do.
    pub opcode: u8,
    /// The command's parameters, like flags and expiry.
    pub extras: &'a [u8],
    /// The item's key.
    pub key: &'a [u8],
    /// The item's value.
    pub value: &'a [u8],
    /// Returned in the reply.
    pub opaque: [u8; 4],
    /// The item's expected cas value; 0: any.
    pub cas: u64,
}

impl Request<'_> {
    /// Returns the header whose lengths are those of this request.
    pub fn header(&self) -> Header {
        let body_len = self.extras.len() + self.key.len() + self.value.len();
        Header {
            opcode: self.opcode,
            key_len: u16::try_from(self.key.len()).unwrap(),
            extras_len: u8::try_from(self.extras.len()).unwrap(),
            body_len: u32::try_from(body_len).unwrap(),
            opaque: self.opaque,
            cas: self.cas,
        }
    }

    /// Returns header and body.
    pub fn encode(&self) -> Vec<u8> {
        [&self.header().encode()[..], self.extras, self.key, self.value].concat()
    }
}

/// Returns a request with a key and a value only. A SASL request's key is the mechanism, its value the message.
pub fn request(opcode: u8, key: &str, value: &str) -> Vec<u8> {
    Request { opcode, key: key.as_bytes(), value: value.as_bytes(), ..Request::default() }.encode()
}

/// Returns a SASL PLAIN login with `token`.
pub fn login(token: &Token) -> Vec<u8> {
    request(0x21, "PLAIN", &plain(token))
}

/// Returns the message of SASL PLAIN (RFC 4616) for `token`.
pub fn plain(token: &Token) -> String {
    format!("\0{}\0{}", token.id().username(), token.secret().reveal())
}

/// Returns the status of every reply in `replies`, which must end with a whole reply.
pub fn statuses(mut replies: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while replies.len() >= HEADER_LEN {
        statuses.push(u16::from_be_bytes([replies[6], replies[7]]));
        let body_len = u32::from_be_bytes([replies[8], replies[9], replies[10], replies[11]]);
        replies = &replies[HEADER_LEN + usize::try_from(body_len).unwrap()..];
    }
    assert!(replies.is_empty(), "the last reply is incomplete");
    statuses
}
