//! The installation's id: part of the name and label of everything that memgate creates in Docker.
//!
//! The store's copy only tells whether a data directory and a store belong together. What acts on Docker takes the id from
//! the data directory, because the web UI may write the store.

use rand::RngExt;

use crate::db::{read, write};
use crate::{Store, StoreError, now};

const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Short, because it is part of bridge names, which have at most 15 characters.
const ID_LEN: usize = 6;

impl Store {
    /// The installation's id; `None` if the store is new.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn installation_id(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT id FROM installation WHERE one = 1";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_optional(pool).await)?)
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
}

/// A new id: six characters of `a-z2-7`.
#[must_use]
pub fn new_installation_id() -> String {
    let mut rng = rand::rng();
    (0..ID_LEN).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}
