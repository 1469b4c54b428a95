//! The installation's id: in the name and label of all that we make in Docker.

use rand::RngExt;

use crate::db::{read, write};
use crate::{Store, StoreError, now};

const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Short, for it is part of bridge names, which hold 15 characters.
const ID_LEN: usize = 6;

impl Store {
    /// The installation's id, six characters of `a-z2-7`; made on first use, then the same for ever.
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
