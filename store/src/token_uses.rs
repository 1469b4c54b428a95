//! When tokens were last used, as the proxies saw it.

use std::net::IpAddr;
use std::time::Duration;

use crate::db::write_unversioned;
use crate::{Store, StoreError, Timestamp, TokenId, now};

/// A later use is written if it is so much later, or by another client.
const INTERVAL_MIN: Duration = Duration::from_secs(30);
/// A use that is recorded for later than this from now was reported by a clock that was ahead: any other one replaces it.
const CLOCK_ERROR_MAX: Duration = Duration::from_mins(10);

/// The last use of a token that a proxy has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The token.
    pub token: TokenId,
    /// The time.
    pub at: Timestamp,
    /// The client's address.
    pub source: IpAddr,
}

const RECORD: &str = "INSERT INTO token_uses (token_id, used_at, source) SELECT id, $2, $3 FROM tokens WHERE id = $1 \
     ON CONFLICT (token_id) DO UPDATE SET used_at = excluded.used_at, source = excluded.source \
     WHERE excluded.used_at > token_uses.used_at + $4 \
     OR (excluded.source <> token_uses.source AND excluded.used_at > token_uses.used_at) OR token_uses.used_at > $5";

impl Store {
    /// Records when tokens were used, unless a later use is known. Ignores tokens that don't exist.
    ///
    /// # Errors
    /// Fails if the database does, then nothing is recorded.
    pub async fn record_token_uses(&self, uses: &[TokenUse]) -> Result<(), StoreError> {
        let mut ordered: Vec<&TokenUse> = uses.iter().collect();
        // In one order, so that two proxies don't deadlock.
        ordered.sort_by_key(|it| it.token.as_str());
        let interval = i64::try_from(INTERVAL_MIN.as_millis()).unwrap_or(i64::MAX);
        let ahead = now().saturating_add(CLOCK_ERROR_MAX);
        write_unversioned!(self, tx => {
            for it in ordered {
                sqlx::query(RECORD).bind(it.token.as_str()).bind(it.at).bind(it.source.to_string()).bind(interval)
                    .bind(ahead).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }
}
