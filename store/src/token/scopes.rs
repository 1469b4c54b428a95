//! Scopes: the kinds of operations that a token may use.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// A set of scopes, which may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// A word in the text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}: use read, write, flush or stats")]
pub struct ParseScopesError(String);

/// Every scope with its name, in the order in which they are written.
const NAMES: [(Scopes, &str); 4] =
    [(Scopes::READ, "read"), (Scopes::WRITE, "write"), (Scopes::FLUSH, "flush"), (Scopes::STATS, "stats")];

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Reading keys.
    pub const READ: Self = Self(1);
    /// Changing, deleting and touching keys.
    pub const WRITE: Self = Self(2);
    /// `flush_all`.
    pub const FLUSH: Self = Self(4);
    /// The instance's statistics.
    pub const STATS: Self = Self(8);
    /// Every scope.
    pub const ALL: Self = Self(15);

    /// Whether all scopes of `others` are in this set.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// The names of the scopes in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(scope, _)| self.contains(*scope)).map(|(_, name)| name)
    }
}

impl BitOr for Scopes {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl FromStr for Scopes {
    type Err = ParseScopesError;

    /// Parses names with commas between them.
    fn from_str(text: &str) -> Result<Self, ParseScopesError> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).try_fold(Self::NONE, |scopes, word| {
            let known = NAMES.into_iter().find(|(_, name)| *name == word);
            known.map(|(scope, _)| scopes | scope).ok_or_else(|| ParseScopesError(word.to_owned()))
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, name) in self.names().enumerate() {
            write!(f, "{}{name}", if nth > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl serde::Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_parsed_as_they_are_displayed() {
        for bits in 0..=Scopes::ALL.0 {
            let scopes = Scopes(bits);
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
            assert_eq!(scopes.names().count(), usize::try_from(bits.count_ones()).unwrap());
        }
        assert_eq!(" stats, read ".parse(), Ok(Scopes::READ | Scopes::STATS));
        assert_eq!(Scopes::ALL.to_string(), "read,write,flush,stats");
        assert_eq!("read,admin".parse::<Scopes>(), Err(ParseScopesError("admin".into())));
        assert!("READ".parse::<Scopes>().is_err());
    }

    #[test]
    fn set_contains_its_subsets_only() {
        let some = Scopes::READ | Scopes::WRITE;
        assert!(some.contains(Scopes::WRITE) && some.contains(some) && some.contains(Scopes::NONE));
        assert!(!some.contains(Scopes::FLUSH) && !some.contains(Scopes::WRITE | Scopes::STATS));
    }
}
