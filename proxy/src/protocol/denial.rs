//! What is refused, in both protocols.

use super::binary::header::Status;

/// Why something is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    NeedsRead,
    NeedsWrite,
    NeedsFlush,
    NeedsStats,
    /// A key is not one of the token's, or it is about everybody's.
    OutsidePrefix,
    /// The plan allows no more of it now.
    OverRate,
}

impl Denial {
    /// In the binary protocol.
    pub(crate) fn status(self) -> Status {
        match self {
            Self::NeedsRead
            | Self::NeedsWrite
            | Self::NeedsFlush
            | Self::NeedsStats
            | Self::OutsidePrefix => Status::AUTH_FAILURE,
            Self::OverRate => Status::BUSY,
        }
    }

    /// In the words of the text protocol.
    pub(crate) fn line(self) -> &'static [u8] {
        match self {
            Self::NeedsRead => b"CLIENT_ERROR access denied: needs read scope\r\n",
            Self::NeedsWrite => b"CLIENT_ERROR access denied: needs write scope\r\n",
            Self::NeedsFlush => b"CLIENT_ERROR access denied: needs flush scope\r\n",
            Self::NeedsStats => b"CLIENT_ERROR access denied: needs stats scope\r\n",
            Self::OutsidePrefix => b"CLIENT_ERROR access denied: key outside prefix\r\n",
            Self::OverRate => b"SERVER_ERROR rate limit exceeded\r\n",
        }
    }
}
