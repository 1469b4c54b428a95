//! Causes of denials: a word for rows, metrics and JSON, and sentences for the token's owner.

/// Why a login or a request was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialCause {
    /// No token has that id. There is no owner to tell, so it is only counted.
    UnknownId,
    /// The secret's checksum is wrong for the id: mistyped, cut off, or another token's secret.
    Mistyped,
    /// The secret's checksum is right, but the secret is not the token's.
    WrongSecret,
    /// The token has expired.
    Expired,
    /// The token has been revoked.
    Revoked,
    /// The token's user is suspended.
    Suspended,
    /// The client's address is in none of the token's networks.
    Source,
    /// The connection has no TLS, and its source requires it.
    Plaintext,
    /// The plan's connections are all in use.
    Limit,
    /// The request exceeds the plan's rate limits.
    Rate,
    /// The request needs this scope, which the token lacks.
    ScopeRead,
    /// See [`DenialCause::ScopeRead`].
    ScopeWrite,
    /// See [`DenialCause::ScopeRead`].
    ScopeFlush,
    /// See [`DenialCause::ScopeRead`].
    ScopeStats,
    /// The key lacks the token's prefix, or the command concerns all keys.
    Prefix,
}

impl DenialCause {
    /// Every cause.
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

    /// Its name in rows, metric labels and JSON: `wrong_secret`.
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

    /// The problem, for the token's owner.
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

    /// How to fix it, for the token's owner.
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
