//! Operations of all users in lists for administrators.

use super::{Operation, Row};
use crate::rows::{ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError};

/// An operation that isn't finished, and the cache that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOperation {
    /// The operation.
    pub operation: Operation,
    /// The cache's name.
    pub cache: String,
    /// The e-mail address of the cache's user.
    pub email: String,
}

#[derive(sqlx::FromRow)]
struct OpenRow {
    #[sqlx(flatten)]
    operation: Row,
    cache: String,
    email: String,
}

/// Operations that the provisioner has seen and not finished, those first that it began first; at most `$1`.
pub(crate) const SEEN: &str = "SELECT o.id, o.cache_id, o.kind, o.memory_mb, o.requested_by, o.created_at, p.state, \
     p.progress, p.message, p.checkpoint, p.started_at, p.finished_at, c.name AS cache, u.email \
     FROM operation_progress p JOIN operations o ON o.id = p.operation_id JOIN caches c ON c.id = o.cache_id \
     JOIN users u ON u.id = c.user_id WHERE p.finished_at IS NULL ORDER BY p.started_at, o.id LIMIT $1";

impl Store {
    /// Up to `limit` operations on caches of all users that the provisioner has seen and not finished.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn operations_in_progress(&self, limit: i64) -> Result<Vec<OpenOperation>, StoreError> {
        let rows: Vec<Result<OpenRow, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(SEEN).bind(limit))?;
        let open = |row: Result<OpenRow, StoreError>| {
            let OpenRow { operation, cache, email } = row?;
            Ok(OpenOperation { operation: Operation::try_from(operation)?, cache, email })
        };
        Ok(readable("operations", rows.into_iter().map(open)))
    }
}
