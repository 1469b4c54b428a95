//! Replies to connections that are closed without an attempt to log in, in each protocol.

use crate::protocol::binary::header::Status;

/// An error reply, in both protocols.
pub(super) struct Rejection {
    pub(super) text: &'static [u8],
    pub(super) binary: Status,
}

pub(super) const TLS_REQUIRED: Rejection =
    Rejection { text: b"CLIENT_ERROR TLS required\r\n", binary: Status::AUTH_FAILURE };
pub(super) const OVERLOADED: Rejection =
    Rejection { text: b"SERVER_ERROR too many connections\r\n", binary: Status::TEMPORARY };
pub(super) const UNAVAILABLE: Rejection =
    Rejection { text: b"SERVER_ERROR authentication unavailable\r\n", binary: Status::TEMPORARY };
