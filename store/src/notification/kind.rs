//! Kinds of notifications, and sets of them.

use std::fmt;
use std::str::FromStr;

/// What a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotificationKind {
    /// A token was found in public, and revoked.
    TokenLeaked,
    /// A token expires within a week.
    TokenExpiring,
    /// A client certificate expires within a week.
    CertificateExpiring,
    /// A cache can't be started, or its memcached ends again and again.
    CacheFailed,
    /// A cache that couldn't be started works again.
    CacheRecovered,
    /// A cache has lost its contents, without an order of its user's.
    CacheEmptied,
    /// memcached was ended for lack of memory, or refused to store.
    CacheOutOfMemory,
    /// Connections or requests were refused because of the plan's limits.
    PlanLimitReached,
    /// A webhook is no longer used, because its receiver failed or said so.
    WebhookDisabled,
    /// A test, which a user asks for.
    Test,
}

/// A set of kinds, which may be empty. It never has [`NotificationKind::Test`], which goes where its user sends it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct NotificationKinds(u16);

/// A word in the text is not a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of notification {0:?}: use {names}", names = NotificationKinds::ALL.list(" or "))]
pub struct ParseNotificationKindsError(String);

impl NotificationKind {
    /// All that users choose from, in the order in which they are written.
    pub const CHOICES: [Self; 9] = [
        Self::TokenLeaked,
        Self::TokenExpiring,
        Self::CertificateExpiring,
        Self::CacheFailed,
        Self::CacheRecovered,
        Self::CacheEmptied,
        Self::CacheOutOfMemory,
        Self::PlanLimitReached,
        Self::WebhookDisabled,
    ];

    /// Its name in rows, JSON, forms and metrics: `token_leaked`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenLeaked => "token_leaked",
            Self::TokenExpiring => "token_expiring",
            Self::CertificateExpiring => "certificate_expiring",
            Self::CacheFailed => "cache_failed",
            Self::CacheRecovered => "cache_recovered",
            Self::CacheEmptied => "cache_emptied",
            Self::CacheOutOfMemory => "cache_out_of_memory",
            Self::PlanLimitReached => "plan_limit_reached",
            Self::WebhookDisabled => "webhook_disabled",
            Self::Test => "test",
        }
    }

    /// What it tells, on pages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TokenLeaked => "A token was found in public and revoked",
            Self::TokenExpiring => "A token expires within a week",
            Self::CertificateExpiring => "A certificate expires within a week",
            Self::CacheFailed => "A cache failed",
            Self::CacheRecovered => "A cache that failed works again",
            Self::CacheEmptied => "A cache lost its contents",
            Self::CacheOutOfMemory => "A cache ran out of memory",
            Self::PlanLimitReached => "A limit of the plan was reached",
            Self::WebhookDisabled => "A webhook was disabled",
            Self::Test => "A test",
        }
    }

    /// Whether a user, or somebody with an API key of theirs, can bring it about as often as they like.
    pub(crate) const fn can_be_provoked(self) -> bool {
        matches!(self, Self::Test | Self::WebhookDisabled)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::CHOICES.into_iter().chain([Self::Test]).find(|kind| kind.name() == text)
    }

    const fn bit(self) -> u16 {
        match self {
            Self::TokenLeaked => 1,
            Self::TokenExpiring => 1 << 1,
            Self::CertificateExpiring => 1 << 2,
            Self::CacheFailed => 1 << 3,
            Self::CacheRecovered => 1 << 4,
            Self::CacheEmptied => 1 << 5,
            Self::CacheOutOfMemory => 1 << 6,
            Self::PlanLimitReached => 1 << 7,
            Self::WebhookDisabled => 1 << 8,
            Self::Test => 0,
        }
    }
}

impl NotificationKinds {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << 9) - 1);

    /// Those that need something to be done: what users get by mail who haven't chosen.
    pub const NEEDING_ACTION: Self = Self(
        NotificationKind::TokenLeaked.bit()
            | NotificationKind::TokenExpiring.bit()
            | NotificationKind::CertificateExpiring.bit()
            | NotificationKind::CacheFailed.bit()
            | NotificationKind::CacheOutOfMemory.bit()
            | NotificationKind::PlanLimitReached.bit()
            | NotificationKind::WebhookDisabled.bit(),
    );

    /// Whether a kind is in this set.
    #[must_use]
    pub const fn contains(self, kind: NotificationKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The names of the kinds in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NotificationKind::CHOICES
            .into_iter()
            .filter(move |kind| self.contains(*kind))
            .map(NotificationKind::name)
    }

    /// The names for a sentence, with `last` before the last one.
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

impl FromIterator<NotificationKind> for NotificationKinds {
    fn from_iter<I: IntoIterator<Item = NotificationKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }
}

impl FromStr for NotificationKinds {
    type Err = ParseNotificationKindsError;

    /// Parses names with commas between them.
    fn from_str(text: &str) -> Result<Self, ParseNotificationKindsError> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let parse = |word| NotificationKind::CHOICES.into_iter().find(|kind| kind.name() == word);
        let unknown = |word: &str| ParseNotificationKindsError(word.chars().take(40).collect());
        words.map(|word| parse(word).ok_or_else(|| unknown(word))).collect()
    }
}

impl fmt::Display for NotificationKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, name) in self.names().enumerate() {
            write!(f, "{}{name}", if nth > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for NotificationKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotificationKinds({self})")
    }
}

impl serde::Serialize for NotificationKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl serde::Serialize for NotificationKinds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_parsed_as_they_are_displayed() {
        for bits in 0..=NotificationKinds::ALL.0 {
            let kinds = NotificationKinds(bits);
            assert_eq!(kinds.to_string().parse(), Ok(kinds));
        }
        assert_eq!(
            NotificationKind::CHOICES.into_iter().collect::<NotificationKinds>(),
            NotificationKinds::ALL
        );
        assert!("test".parse::<NotificationKinds>().is_err());
        assert!(!NotificationKinds::ALL.contains(NotificationKind::Test));
        for kind in NotificationKind::CHOICES.into_iter().chain([NotificationKind::Test]) {
            assert_eq!(NotificationKind::parse(kind.name()), Some(kind));
        }
    }
}
