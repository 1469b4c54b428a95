//! Scopes: the kinds of operations that a token may use. The `scopes!` table has one row for each.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// Defines [`Scope`], and a constant of [`Scopes`] for each scope. A row is: variant, constant, bit, name, label on
/// pages, and the sentence for the owner of a token that lacks the scope.
macro_rules! scopes {
    ($(
        $(#[$doc:meta])*
        $variant:ident, $constant:ident, $bit:literal, $name:literal, $label:literal, $denied:literal;
    )*) => {
        /// One kind of operations.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Scope {
            $($(#[$doc])* $variant,)*
        }

        impl Scope {
            const ALL: &[Self] = &[$(Self::$variant),*];

            const fn info(self) -> Info {
                match self {
                    $(Self::$variant => Info {
                        bit: $bit,
                        name: $name,
                        label: $label,
                        denial_cause: concat!("scope_", $name),
                        denial_line: concat!("CLIENT_ERROR access denied: needs ", $name, " scope\r\n"),
                        denied: $denied,
                        fix: concat!(
                            "Give the application a token with the ", $name, " scope, or change the application."
                        ),
                    },)*
                }
            }
        }

        impl Scopes {
            $(
                #[doc = concat!("Only [`Scope::", stringify!($variant), "`].")]
                pub const $constant: Self = Self($bit);
            )*
            /// Every scope.
            pub const ALL: Self = Self(0 $(| $bit)*);
        }
    };
}

// In the order in which scopes are written and checked.
scopes! {
    /// Reading keys.
    Read, READ, 1, "read", "Read",
        "The token may not read. incr and decr read too, unless their reply is suppressed.";
    /// Changing, deleting and touching keys. A write whose reply shows what the item holds, like `incr`, needs
    /// [`Scope::Read`] too.
    Write, WRITE, 2, "write", "Write", "The token may not write.";
    /// `flush_all`.
    Flush, FLUSH, 4, "flush", "Flush all keys", "The token may not flush.";
    /// The instance's statistics.
    Stats, STATS, 8, "stats", "Read statistics", "The token may not read statistics.";
}

/// The texts about a scope.
struct Info {
    bit: u8,
    name: &'static str,
    label: &'static str,
    denial_cause: &'static str,
    denial_line: &'static str,
    denied: &'static str,
    fix: &'static str,
}

impl Scope {
    /// Its name in rows, JSON, forms and commands: `read`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// Its name on pages: `Flush all keys`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.info().label
    }

    /// The line that denies a text or meta request without this scope (docs/protocol.md, P-6).
    #[must_use]
    pub const fn denial_line(self) -> &'static str {
        self.info().denial_line
    }

    /// The name of the denial cause: `scope_read`.
    pub(crate) const fn denial_cause(self) -> &'static str {
        self.info().denial_cause
    }

    /// The problem, for the owner of a token without this scope.
    pub(crate) const fn denied(self) -> &'static str {
        self.info().denied
    }

    /// How the owner of a token without this scope fixes the denial.
    pub(crate) const fn fix(self) -> &'static str {
        self.info().fix
    }
}

/// A set of scopes, which may be empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// A word in the text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}: use {names}", names = Scopes::ALL.list(" or "))]
pub struct ParseScopesError(String);

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Whether all scopes of `others` are in this set.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// The scopes in this set.
    pub fn each(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains((*scope).into()))
    }

    /// The names of the scopes in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.each().map(Scope::name)
    }

    /// The names for a sentence, with `last` before the last name: `read, write or flush`.
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

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self(scope.info().bit)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, |set, scope| set | scope.into())
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
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let parse = |word| Scopes::ALL.each().find(|scope| scope.name() == word);
        words.map(|word| parse(word).ok_or_else(|| ParseScopesError(word.to_owned()))).collect()
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
            assert_eq!(scopes.each().collect::<Scopes>(), scopes);
        }
        assert_eq!(" stats, read ".parse(), Ok(Scopes::READ | Scopes::STATS));
        assert_eq!(Scopes::ALL.to_string(), "read,write,flush,stats");
        assert_eq!(Scopes::ALL.list(" and "), "read, write, flush and stats");
        assert_eq!((Scopes::NONE.list(" or "), Scopes::READ.list(" or ")), (String::new(), "read".into()));
        assert_eq!("read,admin".parse::<Scopes>(), Err(ParseScopesError("admin".into())));
        assert!("READ".parse::<Scopes>().is_err());
    }

    #[test]
    fn every_scope_has_one_bit_of_its_own() {
        let scopes: Vec<Scopes> = Scopes::ALL.each().map(Scopes::from).collect();
        assert_eq!(scopes, [Scopes::READ, Scopes::WRITE, Scopes::FLUSH, Scopes::STATS]);
        assert_eq!(scopes.iter().map(|scope| scope.0.count_ones()).sum::<u32>(), Scopes::ALL.0.count_ones());
        let lines: Vec<&str> = Scopes::ALL.each().map(Scope::denial_line).collect();
        assert_eq!(lines[3], "CLIENT_ERROR access denied: needs stats scope\r\n");
    }

    #[test]
    fn set_contains_its_subsets_only() {
        let some = Scopes::READ | Scopes::WRITE;
        assert!(some.contains(Scopes::WRITE) && some.contains(some) && some.contains(Scopes::NONE));
        assert!(!some.contains(Scopes::FLUSH) && !some.contains(Scopes::WRITE | Scopes::STATS));
    }
}
