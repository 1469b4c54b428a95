//! Which entries of the audit log to show.

use std::collections::HashSet;
use std::time::Duration;

use store::{AuditEntry, Store, now};

use crate::cli::lookup::find_user;
use crate::output::CliError;

/// Which entries to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only what this user did, or what was done to the user, the caches or the tokens: an e-mail address, or the id of a
    /// deleted user
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Only entries of this last time (90s, 15m, 24h, 30d, 8w)
    #[arg(long, value_name = "TIME", value_parser = store::parse_duration)]
    since: Option<Duration>,
    /// Only entries before this number, to see the page before another
    #[arg(long, value_name = "SEQ", value_parser = crate::cli::number::between(1, i64::MAX))]
    before: Option<i64>,
}

/// The ids of one user, of the user's caches and tokens. Grows on the way from the newest entry to the oldest: an entry
/// about one of them names others, such as the tokens of a deleted cache.
struct Related(HashSet<String>);

impl Filter {
    /// The newest entries that match, at most `limit`, oldest first.
    ///
    /// # Errors
    /// If there is no such user, or the store fails.
    pub(crate) async fn newest(&self, store: &Store, limit: i64) -> Result<Vec<AuditEntry>, CliError> {
        let mut related = match &self.user {
            Some(user) => Some(Related::of_user(store, user).await?),
            None => None,
        };
        let from = self.since.map(|since| now().saturating_sub(since));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut found, mut before) = (Vec::new(), self.before.unwrap_or(i64::MAX));
        'pages: loop {
            let page = store.audit_before(before, super::PAGE_SIZE).await?;
            let Some(last) = page.last() else { break };
            before = last.seq;
            for entry in page {
                if from.is_some_and(|from| entry.at < from) || found.len() == limit {
                    break 'pages;
                }
                if related.as_mut().is_none_or(|related| related.matches(&entry)) {
                    found.push(entry);
                }
            }
        }
        found.reverse();
        Ok(found)
    }
}

impl Related {
    async fn of_user(store: &Store, user: &str) -> Result<Self, CliError> {
        if !user.contains('@') {
            return Ok(Self(HashSet::from([user.to_owned()])));
        }
        let user = find_user(store, user).await?;
        let caches = store.caches_of(&user.id).await?.into_iter().map(|cache| cache.id);
        let tokens = store.tokens_of_user(&user.id).await?.into_iter().map(|token| token.id);
        Ok(Self(caches.chain(tokens).chain([user.id]).collect()))
    }

    fn matches(&mut self, entry: &AuditEntry) -> bool {
        let ids = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
        };
        let named = [&entry.actor, &entry.subject, &entry.detail].into_iter().flat_map(|text| ids(text));
        let matches = named.into_iter().any(|id| self.0.contains(&id));
        if matches && let Some((_, id)) = entry.subject.split_once(' ') {
            self.0.insert(id.to_owned());
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(actor: &str, subject: &str, detail: &str) -> AuditEntry {
        AuditEntry {
            seq: 1,
            at: now(),
            actor: actor.to_owned(),
            action: "test".to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
            hash: String::new(),
        }
    }

    #[test]
    fn entries_about_deleted_caches_and_tokens_are_found_through_others() {
        let mut related = Related(HashSet::from(["ada1".to_owned()]));
        for (entry, matches) in [
            (entry("operator", "plan small", "64 MB"), false),
            (entry("operator", "cache cache1", "shop of user ada1, 1 tokens revoked"), true),
            (entry("operator", "token tok1", "cache deleted, cache shop (cache1)"), true),
            (entry("user ada1", "token tok2", ""), true),
            (entry("operator", "token tok2", ""), true),
            (entry("operator", "token tok3", "cache shop (cache2)"), false),
            (entry("user bob1", "user bob1", ""), false),
        ] {
            assert_eq!(related.matches(&entry), matches, "{entry:?}");
        }
    }
}
