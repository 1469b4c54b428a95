//! The installation's id: part of the name and label of everything that memgate creates in Docker.

use rand::RngExt;

use crate::db::{read, write};
use crate::{Store, StoreError, now};

const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Short, because it is part of bridge names, which have at most 15 characters.
const ID_LEN: usize = 6;

impl Store {
    /// The installation's id: six characters of `a-z2-7`, created by the first call.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn installation_id(&self) -> Result<String, StoreError> {
        if let Some(id) = self.find_installation().await? {
            return Ok(id);
        }
        let id = new_id();
        let sql = "INSERT INTO installation (one, id, created_at) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
        write!(self, tx, _revision => {
            sqlx::query(sql).bind(&id).bind(now()).execute(&mut *tx).await?;
        });
        self.find_installation().await?.ok_or(StoreError::NotFound("installation"))
    }

    async fn find_installation(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT id FROM installation WHERE one = 1";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_optional(pool).await)?)
    }
}

fn new_id() -> String {
    let mut rng = rand::rng();
    (0..ID_LEN).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}
