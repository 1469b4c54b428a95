//! Leaked tokens: revoked as soon as somebody reports where they are public, and shown to their users.

use crate::audit::note;
use crate::db::{read, write};
use crate::rows::{ROW_BYTES_MAX, read_rows};
use crate::token::{self, Token, TokenId};
use crate::{Store, StoreError, Timestamp, TokenKey, now};

/// Characters that are kept of an address.
const URL_LEN_MAX: usize = 300;
/// Characters that are kept of the kind of source.
const SOURCE_LEN_MAX: usize = 40;
/// Reports that are read at once.
const LISTED_MAX: i64 = 200;
/// Open reports that are read with every page.
const OPEN_LISTED_MAX: i64 = 20;
/// A hash that no secret has: checked when the token doesn't exist, so that timing doesn't tell.
const DECOY_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where a token was found, as its finder reported it: shortened, in printable ASCII, and without the token's
/// secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakReport {
    url: String,
    source: String,
}

/// A token that was found in public.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Leak {
    /// The token's public id.
    pub token_id: String,
    /// The token's name.
    pub name: String,
    /// When it was reported and revoked.
    pub at: Timestamp,
    /// Where it was found; may be empty.
    pub url: String,
    /// The kind of source, such as `content` or `npm`; may be empty.
    pub source: String,
}

/// Reports of the user `$1` that aren't dismissed, the oldest `$2`.
pub(crate) const OPEN: &str = "SELECT l.token_id, t.name, l.at, l.url, l.source FROM leaks l \
     JOIN tokens t ON t.id = l.token_id WHERE l.user_id = $1 AND l.dismissed_at IS NULL \
     ORDER BY l.at, l.token_id LIMIT $2";
/// The newest `$2` reports of the user `$1`.
pub(crate) const OF_USER: &str = "SELECT l.token_id, t.name, l.at, l.url, l.source FROM leaks l \
     JOIN tokens t ON t.id = l.token_id WHERE l.user_id = $1 ORDER BY l.at DESC, l.token_id DESC LIMIT $2";

impl LeakReport {
    /// Sanitizes what the finder of `token` reported.
    #[must_use]
    pub fn new(token: &Token, url: &str, source: &str) -> Self {
        let (url, source) = (sanitize(token, url, URL_LEN_MAX), sanitize(token, source, SOURCE_LEN_MAX));
        Self { url, source }
    }
}

fn sanitize(token: &Token, text: &str, len_max: usize) -> String {
    let text = text.trim().replace(token.secret().reveal(), "...");
    let plain = |c: char| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' };
    text.chars().take(len_max).map(plain).collect()
}

impl Store {
    /// Revokes a token that was found, if its id and secret are right and it isn't revoked yet. Returns whether it
    /// was revoked. An id alone is public, so it revokes nothing.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn report_leak(
        &self,
        key: &TokenKey,
        token: &Token,
        found: &LeakReport,
    ) -> Result<bool, StoreError> {
        let id = token.id();
        let held: Option<String> = read!(self, pool => sqlx::query_scalar(
            "SELECT secret_hash FROM tokens WHERE id = $1").bind(id.as_str()).fetch_optional(pool).await)?;
        let hash = held.as_deref().unwrap_or(DECOY_HASH);
        let ours = token::matches(key, &id, token.secret().reveal(), hash) && held.is_some();
        if ours { self.revoke_leaked(&id, found).await } else { Ok(false) }
    }

    async fn revoke_leaked(&self, id: &TokenId, found: &LeakReport) -> Result<bool, StoreError> {
        let revoke = "UPDATE tokens SET revoked_at = $1, revision = $2 WHERE id = $3 AND revoked_at IS NULL";
        let keep = "INSERT INTO leaks (token_id, user_id, at, url, source) \
                    SELECT t.id, c.user_id, $2, $3, $4 FROM tokens t JOIN caches c ON c.id = t.cache_id \
                    WHERE t.id = $1 ON CONFLICT (token_id) DO NOTHING";
        let at = now();
        Ok(write!(self, tx, revision => {
            let touched = sqlx::query(revoke).bind(at).bind(revision).bind(id.as_str())
                .execute(&mut *tx).await?.rows_affected();
            if touched == 0 {
                // Rolls back: a repeated report, or one of a revoked token, changes nothing.
                return Ok(false);
            }
            sqlx::query(keep).bind(id.as_str()).bind(at).bind(&found.url).bind(&found.source)
                .execute(&mut *tx).await?;
            let LeakReport { url, source } = found;
            note!(self, tx, "token.leak", format!("token {id}"), format!("revoked, found at {url:?} ({source:?})"));
            true
        }))
    }

    /// A user's leaked tokens whose reports aren't dismissed, oldest first, at most 20.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn open_leaks(&self, user_id: &str) -> Result<Vec<Leak>, StoreError> {
        read_rows!(self, ROW_BYTES_MAX, sqlx::query(OPEN).bind(user_id).bind(OPEN_LISTED_MAX))?
            .into_iter()
            .collect()
    }

    /// A user's leaked tokens, with dismissed reports too: the newest 200, oldest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn leaks_of(&self, user_id: &str) -> Result<Vec<Leak>, StoreError> {
        let rows = read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_USER).bind(user_id).bind(LISTED_MAX))?;
        let mut leaks: Vec<Leak> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        leaks.reverse();
        Ok(leaks)
    }

    /// Dismisses the report of a leaked token.
    ///
    /// # Errors
    /// `NotFound("leak")` if there is none that is not dismissed.
    pub async fn dismiss_leak(&self, id: &TokenId) -> Result<(), StoreError> {
        let sql = "UPDATE leaks SET dismissed_at = $1 WHERE token_id = $2 AND dismissed_at IS NULL";
        write!(self, tx, _revision => {
            let touched = sqlx::query(sql).bind(now()).bind(id.as_str()).execute(&mut *tx).await?.rows_affected();
            if touched == 0 {
                return Err(StoreError::NotFound("leak"));
            }
            note!(self, tx, "token.leak_seen", format!("token {id}"), "");
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leak_report_is_short_printable_and_without_the_secret() {
        let token = Token::generate();
        let url = format!("https://x.example/?t={}\r\n\u{202e}\u{1b}[2Jé", token.reveal());
        let found = LeakReport::new(&token, &url, &"s".repeat(1000));
        assert_eq!(found.url, format!("https://x.example/?t={}_...????[2J?", token.id().username()));
        assert_eq!(found.source.len(), SOURCE_LEN_MAX);
        assert_eq!(LeakReport::new(&token, &"u".repeat(100_000), "").url.len(), URL_LEN_MAX);
    }
}
