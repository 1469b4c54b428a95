//! Why a request is denied, and how each protocol reports it.

use store::Scope;

use super::binary::header::Status;

/// Why a request is not forwarded (docs/protocol.md, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The token lacks this scope.
    NeedsScope(Scope),
    /// A key lacks the token's prefix, or the command concerns all keys of the cache.
    OutsidePrefix,
    /// The plan's rate limit is exceeded.
    OverRate,
}

/// Why a connection is ended although its client is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Unfinished requests and unread replies of its cache take more memory than they may, or more than half of it and its
    /// client is too slow.
    OverBudget,
    /// The client has sent no byte of an unfinished request, or read none of its replies, for too long.
    Stalled,
    /// Its cache has more than its part of the proxy's connections, and others need them.
    ProxyLimit,
}

impl Ending {
    /// The line of a text or meta reply.
    pub(crate) fn line(self) -> &'static [u8] {
        match self {
            Self::OverBudget => b"SERVER_ERROR too many unfinished requests\r\n",
            Self::Stalled => b"CLIENT_ERROR request timed out\r\n",
            Self::ProxyLimit => b"SERVER_ERROR too many connections\r\n",
        }
    }
}

impl Denial {
    /// The status of a binary reply.
    pub(crate) fn status(self) -> Status {
        match self {
            Self::NeedsScope(_) | Self::OutsidePrefix => Status::AUTH_FAILURE,
            Self::OverRate => Status::BUSY,
        }
    }

    /// The line of a text or meta reply.
    pub(crate) fn line(self) -> &'static [u8] {
        match self {
            Self::NeedsScope(scope) => scope.denial_line().as_bytes(),
            Self::OutsidePrefix => b"CLIENT_ERROR access denied: key outside prefix\r\n",
            Self::OverRate => b"SERVER_ERROR rate limit exceeded\r\n",
        }
    }
}
