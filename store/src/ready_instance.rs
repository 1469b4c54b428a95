//! Instances that were made ahead: their containers run before anybody has asked for them. The provisioner writes the
//! rows. Who creates an instance takes one by creating it with its id; from then on it is an instance like any other.

use crate::db::{read, write_unversioned};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, Timestamp, now};

/// Rows that are read; the provisioner makes fewer.
const READY_MAX: i64 = 1_000;

/// An instance that was made ahead, and that nobody has taken.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReadyInstance {
    /// The id that an instance gets with it.
    pub id: String,
    /// As of an instance.
    pub memory_mb: i64,
    /// As of an instance.
    pub connections: i64,
    /// As of an instance.
    pub item_size_max: i64,
    /// Since when it may be taken.
    pub ready_at: Option<Timestamp>,
}

/// The id of one with the memory `$1`, the connections `$2` and the item size `$3`.
pub(crate) const TAKE: &str = "SELECT r.id FROM ready_instances r LEFT JOIN instances i ON i.id = r.id \
     WHERE i.id IS NULL AND r.ready_at IS NOT NULL AND r.memory_mb = $1 AND r.connections = $2 \
     AND r.item_size_max = $3 ORDER BY r.ready_at, r.id LIMIT 1";
const ALL: &str = "SELECT r.id, r.memory_mb, r.connections, r.item_size_max, r.ready_at FROM ready_instances r LEFT JOIN instances i ON i.id = r.id \
     WHERE i.id IS NULL ORDER BY r.created_at, r.id LIMIT $1";
/// Those that were taken need no row any more.
const FORGET_TAKEN: &str =
    "DELETE FROM ready_instances WHERE EXISTS (SELECT 1 FROM instances i WHERE i.id = ready_instances.id)";
/// Nothing takes it meanwhile: the creation of an instance locks the revision's row.
const LOCK: &str = "UPDATE revision SET value = value WHERE one = 1";
const WITHDRAW: &str = "UPDATE ready_instances SET ready_at = NULL WHERE id = $1 \
     AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = ready_instances.id)";

impl Store {
    /// The instances that were made ahead, or are being made, and that nobody has taken. Invalid rows are logged and
    /// skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn ready_instances(&self) -> Result<Vec<ReadyInstance>, StoreError> {
        Ok(readable(
            "ready instances",
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(ALL).bind(READY_MAX))?,
        ))
    }

    /// Records an instance that is going to be made ahead, so that nothing of it is left behind by a crash.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn begin_ready_instance(
        &self,
        memory_mb: i64,
        connections: i64,
        item_size_max: i64,
    ) -> Result<ReadyInstance, StoreError> {
        let new =
            ReadyInstance { id: crate::id::random(), memory_mb, connections, item_size_max, ready_at: None };
        let sql = "INSERT INTO ready_instances (id, memory_mb, connections, item_size_max, created_at) \
                   VALUES ($1, $2, $3, $4, $5)";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(&new.id).bind(memory_mb).bind(connections).bind(item_size_max).bind(now())
                .execute(&mut *tx).await?;
        });
        Ok(new)
    }

    /// Lets an instance that was made ahead be taken.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn offer_ready_instance(&self, id: &str) -> Result<(), StoreError> {
        let sql = "UPDATE ready_instances SET ready_at = $1 WHERE id = $2";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Withdraws an instance that was made ahead. Returns whether that was in time: otherwise somebody has taken it. Its row
    /// stays until [`Store::forget_withdrawn_instance`], so that a crash meanwhile leaves nothing of it behind.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn withdraw_ready_instance(&self, id: &str) -> Result<bool, StoreError> {
        Ok(write_unversioned!(self, tx => {
            sqlx::query(LOCK).execute(&mut *tx).await?;
            sqlx::query(WITHDRAW).bind(id).execute(&mut *tx).await?.rows_affected() > 0
        }))
    }

    /// Forgets an instance that was withdrawn, once nothing of it exists any more.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_withdrawn_instance(&self, id: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM ready_instances WHERE id = $1 AND ready_at IS NULL";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Forgets which instances were made ahead and then taken.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_taken_instances(&self) -> Result<(), StoreError> {
        let taken = "SELECT COUNT(*) FROM ready_instances r JOIN instances i ON i.id = r.id";
        let taken: i64 = read!(self, pool => sqlx::query_scalar(taken).fetch_one(pool).await)?;
        if taken > 0 {
            write_unversioned!(self, tx => {
                sqlx::query(FORGET_TAKEN).execute(&mut *tx).await?;
            });
        }
        Ok(())
    }
}
