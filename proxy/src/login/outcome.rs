//! How a login has gone.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LoginOutcome {
    Success,
    /// Not a token: mistyped, or something else altogether.
    Malformed,
    Unknown,
    WrongSecret,
    Revoked,
    /// Its time is over.
    Expired,
    /// From a network that isn't one of the token's.
    SourceDenied,
    Suspended,
    /// The store is away.
    Unavailable,
    /// The plan has no connection left.
    ConnectionLimit,
    /// The proxy has no room, or the source has too many who haven't logged in.
    Overloaded,
    /// A load balancer that didn't say for whom it calls.
    MissingProxyHeader,
    /// Plaintext from a public address.
    Plaintext,
    TimedOut,
}

impl EncodeLabelValue for LoginOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = match self {
            Self::Success => "success",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::SourceDenied => "source_denied",
            Self::Suspended => "suspended",
            Self::Unavailable => "unavailable",
            Self::ConnectionLimit => "connection_limit",
            Self::Overloaded => "overloaded",
            Self::MissingProxyHeader => "missing_proxy_header",
            Self::Plaintext => "plaintext",
            Self::TimedOut => "timed_out",
        };
        value.encode(encoder)
    }
}
