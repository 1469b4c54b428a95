//! The installation's id: part of the name and label of everything that memgate creates in Docker. And the fingerprints of
//! its keys.
//!
//! The store's copy only tells whether a data directory and a store belong together. What acts on Docker takes the id from
//! the data directory, because the web UI may write the store. The fingerprints can only make a start fail, too: with
//! other keys a proxy would refuse all logins, and a provisioner would replace all caches (F-28).

use rand::RngExt;

use crate::db::{INSTALLATION_ID, read, write};
use crate::{KeyFingerprint, Store, StoreError, now};

const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Short, because it is part of bridge names, which have at most 15 characters.
const ID_LEN: usize = 6;

/// The fingerprints of the installation's keys; `None` if they haven't been recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFingerprints {
    /// Of the key that hashes token secrets.
    pub token_key: Option<KeyFingerprint>,
    /// Of the key from which lane credentials are derived.
    pub lane_key: Option<KeyFingerprint>,
}

impl Store {
    /// The installation's id; `None` if the store is new.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn installation_id(&self) -> Result<Option<String>, StoreError> {
        Ok(read!(self, pool => sqlx::query_scalar(INSTALLATION_ID).fetch_optional(pool).await)?)
    }

    /// Records the id in a new store. Returns the store's id, which is another one if somebody recorded it first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn record_installation_id(&self, id: &str) -> Result<String, StoreError> {
        let sql = "INSERT INTO installation (one, id, created_at) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
        if self.installation_id().await?.is_none() {
            write!(self, tx, _revision => {
                sqlx::query(sql).bind(id).bind(now()).execute(&mut *tx).await?;
            });
        }
        self.installation_id().await?.ok_or(StoreError::NotFound("installation"))
    }

    /// The fingerprints of the installation's keys.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn key_fingerprints(&self) -> Result<KeyFingerprints, StoreError> {
        let sql = "SELECT token_key_fingerprint, lane_key_fingerprint FROM installation WHERE one = 1";
        let row: Option<(Option<String>, Option<String>)> =
            read!(self, pool => sqlx::query_as(sql).fetch_optional(pool).await)?;
        let (token_key, lane_key) = row.unwrap_or_default();
        Ok(KeyFingerprints {
            token_key: token_key.map(KeyFingerprint),
            lane_key: lane_key.map(KeyFingerprint),
        })
    }

    /// Records the fingerprints that the store doesn't have yet, and never changes one. Only root's commands call this, after
    /// they have read the keys. Returns those that the store has now.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn record_key_fingerprints(
        &self,
        token_key: &KeyFingerprint,
        lane_key: &KeyFingerprint,
    ) -> Result<KeyFingerprints, StoreError> {
        let sql = "UPDATE installation SET token_key_fingerprint = COALESCE(token_key_fingerprint, $1), \
                   lane_key_fingerprint = COALESCE(lane_key_fingerprint, $2) WHERE one = 1";
        let recorded = self.key_fingerprints().await?;
        if recorded.token_key.is_some() && recorded.lane_key.is_some() {
            return Ok(recorded);
        }
        write!(self, tx, _revision => {
            sqlx::query(sql).bind(&token_key.0).bind(&lane_key.0).execute(&mut *tx).await?;
        });
        self.key_fingerprints().await
    }
}

/// A new id: six characters of `a-z2-7`.
#[must_use]
pub fn new_installation_id() -> String {
    let mut rng = rand::rng();
    (0..ID_LEN).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}
