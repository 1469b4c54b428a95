//! The outcome of a login attempt.

/// Why a login attempt succeeded or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LoginOutcome {
    Success,
    /// Not a well-formed token.
    Malformed,
    /// No token has that id.
    Unknown,
    WrongSecret,
    Revoked,
    Expired,
    /// The client certificate has expired or been revoked.
    CertificateEnded,
    /// The token doesn't allow the client's network.
    SourceDenied,
    /// Valid, but of another user than the connection's.
    OtherUser,
    /// The token's user is suspended.
    Suspended,
    /// The store is unavailable.
    Unavailable,
    /// The plan's connection limit is reached.
    ConnectionLimit,
    /// The token's connection limit is reached.
    TokenConnectionLimit,
    /// The cache has as many of the proxy's connections as it may.
    ProxyLimit,
    /// The proxy's connection limit, or the source's limit of unauthenticated connections, is reached.
    Overloaded,
    /// The login took too long while others needed its place.
    Evicted,
    /// A configured load balancer sent no PROXY header.
    MissingProxyHeader,
    /// Plaintext from a public address.
    Plaintext,
    /// The client has begun SCRAM and left before its last message.
    ScramUnfinished,
    TimedOut,
}

impl LoginOutcome {
    pub(crate) const ALL: [Self; 20] = [
        Self::Success,
        Self::Malformed,
        Self::Unknown,
        Self::WrongSecret,
        Self::Revoked,
        Self::Expired,
        Self::CertificateEnded,
        Self::SourceDenied,
        Self::OtherUser,
        Self::Suspended,
        Self::Unavailable,
        Self::ConnectionLimit,
        Self::TokenConnectionLimit,
        Self::ProxyLimit,
        Self::Overloaded,
        Self::Evicted,
        Self::MissingProxyHeader,
        Self::Plaintext,
        Self::ScramUnfinished,
        Self::TimedOut,
    ];

    /// The metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown_id",
            Self::WrongSecret => "wrong_secret",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::CertificateEnded => "certificate_ended",
            Self::SourceDenied => "source_denied",
            Self::OtherUser => "other_user",
            Self::Suspended => "suspended",
            Self::Unavailable => "store_unavailable",
            Self::ConnectionLimit => "connection_limit",
            Self::TokenConnectionLimit => "token_connection_limit",
            Self::ProxyLimit => "proxy_limit",
            Self::Overloaded => "overloaded",
            Self::Evicted => "evicted",
            Self::MissingProxyHeader => "missing_proxy_header",
            Self::Plaintext => "plaintext",
            Self::ScramUnfinished => "scram_unfinished",
            Self::TimedOut => "timed_out",
        }
    }
}
