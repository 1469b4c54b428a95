//! Operations: what users and operators ask of a cache, and what became of it. Asking writes one table, the
//! provisioner another.

pub(crate) mod kind;
pub(crate) mod request;

use crate::audit::note;
use crate::cache::{BY_ID, SET_DESIRED, SET_SUSPENDED};
use crate::db::write;
use crate::instance;
use crate::rows::{QUERIED_MAX, ROW_BYTES_MAX, read_row, read_rows, readable};
use crate::{Cache, DesiredState, Instance, OperationError, Store, StoreError, Timestamp, UserState, now};

pub use kind::{OperationKind, OperationState};
pub use request::{NewOperation, RESIZE_MB_MAX, RESIZE_MB_MIN};
use request::{ask_for, require_memory_of_plan, require_own_suspension};

/// Characters of a message.
const MESSAGE_MAX: usize = 500;

/// An operation, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Operation {
    /// 24 letters and digits.
    pub id: String,
    /// The cache.
    #[serde(skip)]
    pub cache_id: String,
    /// What is to be done.
    pub kind: OperationKind,
    /// The new size in MiB, of a resize.
    pub memory_mb: Option<i64>,
    /// The actor as in the audit log: `operator`, or `user` and an id.
    pub requested_by: String,
    /// How far it is.
    pub state: OperationState,
    /// The same in percent.
    pub progress: i64,
    /// What it waits for, what it did, or why it failed and what helps (`what: how to fix it`).
    pub message: Option<String>,
    /// What the provisioner needs to go on after a crash.
    #[serde(skip)]
    pub checkpoint: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the provisioner began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// What the provisioner records of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationProgress {
    /// See [`Operation`].
    pub state: OperationState,
    /// See [`Operation`].
    pub progress: i64,
    /// See [`Operation`]; `None` clears it.
    pub message: Option<String>,
    /// See [`Operation`]; `None` keeps it.
    pub checkpoint: Option<String>,
}

/// An operation's columns, joined with those of its progress.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) id: String,
    cache_id: String,
    kind: String,
    pub(crate) memory_mb: Option<i64>,
    pub(crate) requested_by: String,
    created_at: Timestamp,
    state: Option<String>,
    progress: Option<i64>,
    message: Option<String>,
    checkpoint: Option<String>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

impl Row {
    pub(crate) fn is(&self, kind: OperationKind) -> bool {
        self.kind == kind.as_str()
    }
}

impl TryFrom<Row> for Operation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let state = row.state.as_deref().map_or(Ok(OperationState::Pending), OperationState::parse)?;
        Ok(Self {
            id: row.id,
            cache_id: row.cache_id,
            kind: OperationKind::parse(&row.kind)?,
            memory_mb: row.memory_mb,
            requested_by: row.requested_by,
            state,
            progress: row.progress.unwrap_or(0),
            message: row.message,
            checkpoint: row.checkpoint,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT o.id, o.cache_id, o.kind, o.memory_mb, o.requested_by, o.created_at, p.state, p.progress, ",
            "p.message, p.checkpoint, p.started_at, p.finished_at FROM operations o ",
            "LEFT JOIN operation_progress p ON p.operation_id = o.id ",
            $rest
        )
    };
}

/// Those that are unfinished: one of each kind, unless another process has written more.
pub(crate) const OPEN_OF_CACHE: &str =
    select!("WHERE o.cache_id = $1 AND p.finished_at IS NULL ORDER BY o.number LIMIT 10");
const USER_STATE: &str = "SELECT state FROM users WHERE id = $1";
const OPEN: &str = select!("WHERE p.finished_at IS NULL ORDER BY o.created_at, o.id LIMIT $1");
const OF_CACHE: &str = select!("WHERE o.cache_id = $1 ORDER BY o.number DESC LIMIT $2");
const BY_ID_OF_CACHE: &str = select!("WHERE o.cache_id = $1 AND o.id = $2");
const RECORD: &str = "INSERT INTO operation_progress (operation_id, state, progress, message, checkpoint, started_at, \
     finished_at, revision) SELECT id, $2, $3, $4, $5, $6, $7, $8 FROM operations WHERE id = $1 \
     ON CONFLICT (operation_id) DO UPDATE SET state = excluded.state, progress = excluded.progress, \
     message = excluded.message, checkpoint = COALESCE(excluded.checkpoint, operation_progress.checkpoint), \
     started_at = COALESCE(operation_progress.started_at, excluded.started_at), \
     finished_at = excluded.finished_at, revision = excluded.revision WHERE operation_progress.finished_at IS NULL";

impl Store {
    /// Asks for an operation on a cache, as the store's actor. Asking again for what is unfinished changes nothing and
    /// returns that; a resize to another size changes the unfinished one. A suspended cache refuses its tokens from now on.
    ///
    /// # Errors
    /// `NotFound("cache")`; `Operation` says why it can't be done now. Its owner can't resume what an operator has suspended,
    /// and gets no more memory than the plan has.
    pub async fn request_operation(
        &self,
        cache_id: &str,
        new: NewOperation,
    ) -> Result<Operation, StoreError> {
        let growth = self.growth_mb().await?;
        let id = write!(self, tx, revision => {
            let cache: Option<Cache> = sqlx::query_as(BY_ID).bind(cache_id).fetch_optional(&mut *tx).await?;
            let cache = cache.ok_or(StoreError::NotFound("cache"))?;
            let row: Option<instance::Row> =
                sqlx::query_as(instance::OF_CACHE).bind(cache_id).fetch_optional(&mut *tx).await?;
            let instance = row.map(Instance::try_from).transpose()?.ok_or(StoreError::NotFound("instance"))?;
            let user: String = sqlx::query_scalar(USER_STATE).bind(&cache.user_id).fetch_one(&mut *tx).await?;
            let of_user = UserState::parse(&user)? == UserState::Suspended;
            match new.check(&instance, growth) {
                Err(OperationError::Suspended) if of_user => return Err(OperationError::UserSuspended.into()),
                checked => checked?,
            }
            if new == NewOperation::Resume && of_user {
                return Err(OperationError::UserSuspended.into());
            }
            require_own_suspension!(self, tx, &cache, new);
            require_memory_of_plan!(self, tx, &cache, &instance, new);
            if &*self.actor != crate::db::OPERATOR {
                let since = now().saturating_sub(request::REQUESTS_WITHIN);
                let asked: i64 = sqlx::query_scalar(request::ASKED).bind(cache_id).bind(since)
                    .fetch_one(&mut *tx).await?;
                if asked >= request::REQUESTS_MAX {
                    return Err(OperationError::TooOften { max: request::REQUESTS_MAX }.into());
                }
            }
            let id = ask_for!(self, tx, revision, &cache, &instance, new);
            if let Some(suspended) = new.suspends() {
                let desired = if suspended { DesiredState::Suspended } else { DesiredState::Running };
                sqlx::query(SET_SUSPENDED).bind(i64::from(suspended)).bind(revision).bind(cache_id)
                    .execute(&mut *tx).await?;
                sqlx::query(SET_DESIRED).bind(desired.as_str()).bind(revision).bind(cache_id)
                    .execute(&mut *tx).await?;
            }
            id
        });
        self.operation(cache_id, &id).await?.ok_or(StoreError::NotFound("operation"))
    }

    /// An operation of a cache.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn operation(&self, cache_id: &str, id: &str) -> Result<Option<Operation>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, ROW_BYTES_MAX, sqlx::query(BY_ID_OF_CACHE).bind(cache_id).bind(id))?;
        row.map(|row| Operation::try_from(row?)).transpose()
    }

    /// The newest operations of a cache, newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn operations_of(&self, cache_id: &str, limit: i64) -> Result<Vec<Operation>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_CACHE).bind(cache_id).bind(limit))?;
        Ok(readable("operations", rows.into_iter().map(|row| Operation::try_from(row?))))
    }

    /// The unfinished operations of a cache, oldest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn open_operations_of(&self, cache_id: &str) -> Result<Vec<Operation>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(OPEN_OF_CACHE).bind(cache_id))?;
        Ok(readable("operations", rows.into_iter().map(|row| Operation::try_from(row?))))
    }

    /// The unfinished operations of all caches, oldest first; 20,001 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn open_operations(&self) -> Result<Vec<Operation>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(OPEN).bind(QUERIED_MAX))?;
        Ok(readable("operations", rows.into_iter().map(|row| Operation::try_from(row?))))
    }

    /// Records how far an operation is. Nothing changes once it has ended, or if it exists no more.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn record_operation(&self, id: &str, new: &OperationProgress) -> Result<(), StoreError> {
        let now = now();
        let started = (new.state != OperationState::Pending).then_some(now);
        let finished = new.state.is_finished().then_some(now);
        let message = new.message.as_ref().map(|text| text.chars().take(MESSAGE_MAX).collect::<String>());
        write!(self, tx, revision => {
            sqlx::query(RECORD).bind(id).bind(new.state.as_str()).bind(new.progress.clamp(0, 100))
                .bind(message).bind(&new.checkpoint).bind(started).bind(finished).bind(revision)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }
}
