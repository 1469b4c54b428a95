//! What a token may do: a small set.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// Some of read, write, flush and stats; perhaps none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// A word that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope {0:?}: take some of read, write, flush, stats")]
pub struct ParseScopesError(String);

/// Every scope with its name, in the order in which they are written.
const NAMES: [(Scopes, &str); 4] =
    [(Scopes::READ, "read"), (Scopes::WRITE, "write"), (Scopes::FLUSH, "flush"), (Scopes::STATS, "stats")];

impl Scopes {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// To learn what is there.
    pub const READ: Self = Self(1);
    /// To change it.
    pub const WRITE: Self = Self(2);
    /// To forget everything at once.
    pub const FLUSH: Self = Self(4);
    /// To see the instance's numbers.
    pub const STATS: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Whether all of `others` are among these.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// The names of those it holds.
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

    /// Names with commas between them.
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
    fn sets_are_written_as_they_are_read() {
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
    fn a_set_contains_all_of_its_parts_and_nothing_else() {
        let some = Scopes::READ | Scopes::WRITE;
        assert!(some.contains(Scopes::WRITE) && some.contains(some) && some.contains(Scopes::NONE));
        assert!(!some.contains(Scopes::FLUSH) && !some.contains(Scopes::WRITE | Scopes::STATS));
    }
}
