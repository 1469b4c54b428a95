//! Entries of the audit log in words: e-mail addresses for ids of users, dates for milliseconds.

use std::collections::{HashMap, HashSet};

use store::{AuditEntry, Store, Timestamp, TokenId};

use crate::output::CliError;
use crate::output::table::table;
use crate::output::time::utc;

/// What ids stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The e-mail addresses of users.
    users: HashMap<String, String>,
    /// The owners of caches and tokens, and the names of these.
    owned: HashMap<String, (String, String)>,
}

impl Names {
    /// Reads the names of the users, caches and tokens that the entries are about.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn read(store: &Store, entries: &[AuditEntry]) -> Result<Self, CliError> {
        let mut names = Self::default();
        for entry in entries {
            let Some((kind, id)) = entry.subject.split_once(' ') else { continue };
            if names.owned.contains_key(id) {
                continue;
            }
            let owned = match (kind, TokenId::parse(id)) {
                ("token", Some(token)) => store.token(&token).await?.map(|token| (token.user_id, token.name)),
                ("cache", _) => store.cache(id).await?.map(|cache| (cache.user_id, cache.name)),
                _ => None,
            };
            names.owned.extend(owned.map(|owned| (id.to_owned(), owned)));
        }
        for id in names.user_ids(entries) {
            if let Some(user) = store.user(&id).await? {
                names.users.insert(id, user.email);
            }
        }
        Ok(names)
    }

    /// The ids of users that the entries name, and of the owners of caches and tokens.
    fn user_ids(&self, entries: &[AuditEntry]) -> HashSet<String> {
        let owners = self.owned.values().map(|(user, _)| user.clone());
        let texts = entries.iter().flat_map(|entry| [&entry.actor, &entry.subject, &entry.detail]);
        let named = texts.flat_map(|text| {
            let words = text.split(' ').zip(text.split(' ').skip(1));
            words
                .filter(|(word, _)| matches!(*word, "user" | "admin"))
                .map(|(_, id)| without_end(id).0.to_owned())
        });
        owners.chain(named).collect()
    }

    /// The entries as a table.
    pub(super) fn rows(&self, entries: &[AuditEntry]) -> String {
        let row = |entry: &AuditEntry| {
            [
                entry.seq.to_string(),
                utc(entry.at),
                self.actor(&entry.actor),
                entry.action.clone(),
                self.subject(&entry.subject),
                self.detail(&entry.detail),
            ]
        };
        table(
            ["SEQ", "TIME", "ACTOR", "ACTION", "SUBJECT", "DETAIL"],
            &entries.iter().map(row).collect::<Vec<_>>(),
        )
    }

    fn actor(&self, actor: &str) -> String {
        let known = actor.split_once(' ').and_then(|(kind, id)| Some((kind, self.users.get(id)?)));
        match known {
            Some(("user", email)) => email.clone(),
            Some(("admin", email)) => format!("admin {email}"),
            _ => actor.to_owned(),
        }
    }

    /// `user ada@example.org`, or `token Zk3P0vTq8LwX (shop of ada@example.org)`.
    fn subject(&self, subject: &str) -> String {
        let Some((kind, id)) = subject.split_once(' ') else { return subject.to_owned() };
        if let Some(email) = self.users.get(id) {
            return format!("{kind} {email}");
        }
        match self.owned.get(id) {
            Some((user, name)) => match self.users.get(user) {
                Some(email) => format!("{subject} ({name} of {email})"),
                None => format!("{subject} ({name})"),
            },
            None => subject.to_owned(),
        }
    }

    /// `until 1827442860512` is a date, and `user` with an id an e-mail address.
    fn detail(&self, detail: &str) -> String {
        let mut words: Vec<String> = Vec::new();
        for word in detail.split(' ') {
            let (word, end) = without_end(word);
            let known = match words.last().map(String::as_str) {
                Some("until" | "at") => word.parse().ok().map(Timestamp::from_millis).map(utc),
                Some("user") => self.users.get(word).cloned(),
                _ => None,
            };
            words.push(known.unwrap_or_else(|| word.to_owned()) + end);
        }
        words.join(" ")
    }
}

/// A word, and the punctuation behind it.
fn without_end(word: &str) -> (&str, &str) {
    word.split_at(word.trim_end_matches([',', ';', ')']).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_and_milliseconds_are_dates() {
        let names = Names {
            users: HashMap::from([("ada1".to_owned(), "ada@example.org".to_owned())]),
            owned: HashMap::from([("tok1".to_owned(), ("ada1".to_owned(), "shop".to_owned()))]),
        };
        assert_eq!(names.actor("user ada1"), "ada@example.org");
        assert_eq!(names.actor("admin ada1"), "admin ada@example.org");
        assert_eq!(names.actor("user gone"), "user gone");
        assert_eq!(names.actor("operator"), "operator");
        assert_eq!(names.subject("user ada1"), "user ada@example.org");
        assert_eq!(names.subject("token tok1"), "token tok1 (shop of ada@example.org)");
        assert_eq!(names.subject("plan small"), "plan small");
        for (stored, shown) in [
            ("the old one expires at 1827442860512", "the old one expires at 2027-11-28 23:01 UTC"),
            (
                "scopes read, until 1827442860512, from ::1/128",
                "scopes read, until 2027-11-28 23:01 UTC, from ::1/128",
            ),
            ("shop of user ada1, plan small", "shop of user ada@example.org, plan small"),
            ("found at \"https://x\"", "found at \"https://x\""),
            ("", ""),
        ] {
            assert_eq!(names.detail(stored), shown);
        }
    }
}
