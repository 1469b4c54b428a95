//! Why somebody was refused: a word for rows and labels, and what to tell the token's owner.

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialCause {
    /// No token has that id. There is no owner to tell, so it is only counted.
    UnknownId,
    /// The secret is none that goes with the id: mistyped, cut off, or another token's.
    Mistyped,
    /// A secret in every respect, but not the token's.
    WrongSecret,
    /// The token's time is over.
    Expired,
    /// The token has been revoked.
    Revoked,
    /// The token's user is suspended.
    Suspended,
    /// From a network that isn't one of the token's.
    Source,
    /// Without TLS, from an address where that isn't accepted.
    Plaintext,
    /// The plan has no connection left.
    Limit,
    /// Faster than the plan allows.
    Rate,
    /// A request that the token's scopes don't allow, for want of this one.
    ScopeRead,
    /// See [`DenialCause::ScopeRead`].
    ScopeWrite,
    /// See [`DenialCause::ScopeRead`].
    ScopeFlush,
    /// See [`DenialCause::ScopeRead`].
    ScopeStats,
    /// A key that isn't one of the token's, or what is about everybody's.
    Prefix,
}

impl DenialCause {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::UnknownId,
        Self::Mistyped,
        Self::WrongSecret,
        Self::Expired,
        Self::Revoked,
        Self::Suspended,
        Self::Source,
        Self::Plaintext,
        Self::Limit,
        Self::Rate,
        Self::ScopeRead,
        Self::ScopeWrite,
        Self::ScopeFlush,
        Self::ScopeStats,
        Self::Prefix,
    ];

    /// In rows, labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownId => "unknown_id",
            Self::Mistyped => "mistyped",
            Self::WrongSecret => "wrong_secret",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Source => "source",
            Self::Plaintext => "plaintext",
            Self::Limit => "limit",
            Self::Rate => "rate",
            Self::ScopeRead => "scope_read",
            Self::ScopeWrite => "scope_write",
            Self::ScopeFlush => "scope_flush",
            Self::ScopeStats => "scope_stats",
            Self::Prefix => "prefix",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// What was wrong, for the token's owner.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::UnknownId => "No token has that username.",
            Self::Mistyped => {
                "The username is right, but not the password: it is mistyped, cut off, or another token's."
            }
            Self::WrongSecret => "The username is right, but the password isn't.",
            Self::Expired => "The token has expired.",
            Self::Revoked => "The token has been revoked.",
            Self::Suspended => "The account is suspended.",
            Self::Source => "The token may not be used from that address.",
            Self::Plaintext => {
                "It came over the internet without TLS, so the password could be read on its way."
            }
            Self::Limit => "All connections of the plan were in use.",
            Self::Rate => "It asked faster than the plan allows.",
            Self::ScopeRead => "The token may not read.",
            Self::ScopeWrite => "The token may not write.",
            Self::ScopeFlush => "The token may not flush.",
            Self::ScopeStats => "The token may not see statistics.",
            Self::Prefix => "The key doesn't begin with the token's prefix, or it was about all keys.",
        }
    }

    /// How to set it right.
    #[must_use]
    pub fn fix(self) -> &'static str {
        match self {
            Self::UnknownId => "Copy the username again.",
            Self::Mistyped | Self::WrongSecret => {
                "Give the application the username and the password of one and the same token, or a new token."
            }
            Self::Expired | Self::Revoked => "Give the application that still uses it a new token.",
            Self::Suspended => "Ask the operator of this service.",
            Self::Source => "Call from one of its networks, or make a token that allows this one.",
            Self::Plaintext => "Use TLS, and rotate this token.",
            Self::Limit => "Close connections that aren't used, or let the application hold fewer at once.",
            Self::Rate => "Ask less often or for more at once, or ask the operator for a larger plan.",
            Self::ScopeRead | Self::ScopeWrite | Self::ScopeFlush | Self::ScopeStats => {
                "Give the application a token that may, or let it do without."
            }
            Self::Prefix => {
                "Let the application put the prefix before its keys, or make a token with another."
            }
        }
    }
}
