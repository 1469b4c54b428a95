//! Caches of all users in lists for administrators: each with its owner, its instance and what is known of that.

use crate::db::read;
use crate::rows::{ROW_BYTES_MAX, read_rows, readable};
use crate::{InstanceState, Store, StoreError, Timestamp};

/// A cache in a list of those of all users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCache {
    /// The cache's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of its plan.
    pub plan: String,
    /// Whether it is suspended itself, whatever its user is.
    pub suspended: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// The user who has it.
    pub user_id: String,
    /// The user's e-mail address.
    pub email: String,
    /// The memory of its instance, in MiB.
    pub memory_mb: i64,
    /// The observed state of its instance.
    pub state: InstanceState,
    /// Why it is pending or has failed.
    pub message: Option<String>,
    /// The address of its instance.
    pub address: Option<String>,
    /// Since when it has that state; `None` until the provisioner has recorded one.
    pub changed_at: Option<Timestamp>,
    /// When its container was last checked for isolation; `None` if it never was.
    pub checked_at: Option<Timestamp>,
    /// Whether a part of that check failed.
    pub check_failed: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    plan: String,
    suspended: bool,
    created_at: Timestamp,
    user_id: String,
    email: String,
    memory_mb: i64,
    state: String,
    message: Option<String>,
    address: Option<String>,
    changed_at: Option<Timestamp>,
    checked_at: Option<Timestamp>,
    check_failed: bool,
}

impl TryFrom<Row> for ListedCache {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            state: InstanceState::parse(&row.state)?,
            id: row.id,
            name: row.name,
            plan: row.plan,
            suspended: row.suspended,
            created_at: row.created_at,
            user_id: row.user_id,
            email: row.email,
            memory_mb: row.memory_mb,
            message: row.message,
            address: row.address,
            changed_at: row.changed_at,
            checked_at: row.checked_at,
            check_failed: row.check_failed,
        })
    }
}

/// `c.` is the cache, `u.` its user, `i.` its instance, `r.` that one's route and `k.` the newest check of its container.
macro_rules! select {
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT c.id, c.name, c.plan, c.suspended <> 0 AS suspended, c.created_at, c.user_id, u.email, ",
            "i.memory_mb, COALESCE(r.state, 'pending') AS state, r.message, r.address, r.changed_at, k.checked_at, ",
            "COALESCE('failed' IN (k.ports, k.restrictions, k.reachability, k.login), FALSE) AS check_failed ",
            $from,
            " JOIN users u ON u.id = c.user_id ",
            "LEFT JOIN isolation_checks k ON k.instance_id = i.id AND k.container = r.container ",
            $rest
        )
    };
}

/// The newest caches before the time `$1` and, of the same time, the id `$2`, in the state `$3` or any; at most `$4`.
pub(crate) const PAGE: &str = select!(
    "FROM caches c JOIN instances i ON i.cache_id = c.id LEFT JOIN routes r ON r.instance_id = i.id",
    "WHERE c.deleted_at IS NULL AND (c.created_at, c.id) < ($1, $2) \
     AND ($3 = '' OR COALESCE(r.state, 'pending') = $3) ORDER BY c.created_at DESC, c.id DESC LIMIT $4"
);
/// Caches that have failed, the newest first; at most `$1`.
pub(crate) const FAILED: &str = select!(
    "FROM routes r JOIN instances i ON i.id = r.instance_id JOIN caches c ON c.id = i.cache_id",
    "WHERE r.state = 'failed' AND c.deleted_at IS NULL ORDER BY r.changed_at DESC, r.instance_id DESC LIMIT $1"
);
/// The oldest caches of the user `$1`, at most `$2`.
pub(crate) const OF_USER: &str = select!(
    "FROM caches c JOIN instances i ON i.cache_id = c.id LEFT JOIN routes r ON r.instance_id = i.id",
    "WHERE c.user_id = $1 AND c.deleted_at IS NULL ORDER BY c.created_at, c.id LIMIT $2"
);
pub(crate) const STATES: &str = "SELECT COALESCE(r.state, 'pending') AS state, COUNT(*) AS caches FROM caches c \
     JOIN instances i ON i.cache_id = c.id LEFT JOIN routes r ON r.instance_id = i.id \
     WHERE c.deleted_at IS NULL GROUP BY COALESCE(r.state, 'pending') ORDER BY 1 LIMIT 20";

impl Store {
    /// Up to `limit` caches of all users, the newest first: those in a state, or in any, before the cache with this time and
    /// id. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn find_caches(
        &self,
        state: Option<InstanceState>,
        before: Option<(Timestamp, &str)>,
        limit: i64,
    ) -> Result<Vec<ListedCache>, StoreError> {
        let (at, id) = before.unwrap_or((Timestamp::MAX, ""));
        let state = state.map_or("", InstanceState::as_str);
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(PAGE).bind(at).bind(id).bind(state).bind(limit))?;
        Ok(readable("caches", rows.into_iter().map(|row| ListedCache::try_from(row?))))
    }

    /// Up to `limit` caches of all users that have failed, those first that failed last.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn failed_caches(&self, limit: i64) -> Result<Vec<ListedCache>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(FAILED).bind(limit))?;
        Ok(readable("caches", rows.into_iter().map(|row| ListedCache::try_from(row?))))
    }

    /// Up to `limit` caches of a user, oldest first, as administrators see them.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn listed_caches_of(&self, user_id: &str, limit: i64) -> Result<Vec<ListedCache>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_USER).bind(user_id).bind(limit))?;
        Ok(readable("caches", rows.into_iter().map(|row| ListedCache::try_from(row?))))
    }

    /// How many caches are in each state, those without any left out. Another process may have written an unknown state.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn cache_states(&self) -> Result<Vec<(InstanceState, i64)>, StoreError> {
        let counts: Vec<(String, i64)> = read!(self, pool => sqlx::query_as(STATES).fetch_all(pool).await)?;
        let known = |(state, count): (String, i64)| Some((InstanceState::parse(&state).ok()?, count));
        Ok(counts.into_iter().filter_map(known).collect())
    }
}
