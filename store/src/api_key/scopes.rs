//! Scopes of API keys: what their requests may do.

use std::fmt;
use std::str::FromStr;

/// One kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApiScope {
    /// Seeing everything of one's own account, except secrets.
    Read,
    /// Creating, changing, rotating and revoking tokens and certificates.
    Tokens,
    /// Creating and deleting caches, asking for operations on them, and closing connections.
    Caches,
    /// Creating, changing and deleting webhooks, and sending to them.
    Webhooks,
    /// Reading the metrics of caches, for a monitoring system.
    Metrics,
}

/// A set of scopes, which may be empty.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ApiScopes(u8);

/// A word in the text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}: use {names}", names = ApiScopes::ALL.list(" or "))]
pub struct ParseApiScopesError(String);

impl ApiScope {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 5] = [Self::Read, Self::Tokens, Self::Caches, Self::Webhooks, Self::Metrics];

    /// Its name in rows, JSON, forms and commands: `read`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Tokens => "tokens",
            Self::Caches => "caches",
            Self::Webhooks => "webhooks",
            Self::Metrics => "metrics",
        }
    }

    /// What it allows, on pages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "See everything of your account, except secrets",
            Self::Tokens => "Create, change, rotate and revoke tokens and certificates",
            Self::Caches => "Create, resize, restart and delete caches, and close connections",
            Self::Webhooks => "Create, change and delete webhooks, and send to them",
            Self::Metrics => "Read the metrics of your caches, for Prometheus, and nothing else",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Tokens => 2,
            Self::Caches => 4,
            Self::Webhooks => 8,
            Self::Metrics => 16,
        }
    }
}

impl ApiScopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every scope.
    pub const ALL: Self = Self(31);

    /// Whether a scope is in this set.
    #[must_use]
    pub const fn contains(self, scope: ApiScope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The names of the scopes in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        ApiScope::ALL.into_iter().filter(move |scope| self.contains(*scope)).map(ApiScope::name)
    }

    /// The names for a sentence, with `last` before the last name: `read, tokens or caches`.
    #[must_use]
    pub fn list(self, last: &str) -> String {
        let names: Vec<_> = self.names().collect();
        match names.as_slice() {
            [] => String::new(),
            [name] => (*name).to_owned(),
            [names @ .., name] => format!("{}{last}{name}", names.join(", ")),
        }
    }
}

impl FromIterator<ApiScope> for ApiScopes {
    fn from_iter<I: IntoIterator<Item = ApiScope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl FromStr for ApiScopes {
    type Err = ParseApiScopesError;

    /// Parses names with commas between them.
    fn from_str(text: &str) -> Result<Self, ParseApiScopesError> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let parse = |word| ApiScope::ALL.into_iter().find(|scope| scope.name() == word);
        words.map(|word| parse(word).ok_or_else(|| ParseApiScopesError(word.to_owned()))).collect()
    }
}

impl fmt::Display for ApiScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, name) in self.names().enumerate() {
            write!(f, "{}{name}", if nth > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for ApiScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiScopes({self})")
    }
}

impl serde::Serialize for ApiScopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_parsed_as_they_are_displayed() {
        for bits in 0..=ApiScopes::ALL.0 {
            let scopes = ApiScopes(bits);
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
            assert_eq!(scopes.names().count(), usize::try_from(bits.count_ones()).unwrap());
        }
        assert_eq!(ApiScope::ALL.into_iter().collect::<ApiScopes>(), ApiScopes::ALL);
        assert_eq!(ApiScopes::ALL.list(" and "), "read, tokens, caches, webhooks and metrics");
        assert_eq!(" caches, read ".parse(), Ok(ApiScopes(5)));
        assert_eq!("read,admin".parse::<ApiScopes>(), Err(ParseApiScopesError("admin".into())));
    }
}
