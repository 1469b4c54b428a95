//! How a login has gone.

use prometheus_client::encoding::EncodeLabelValue;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
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
