//! The upgrade of all instances to the image that new ones get: what operators want of it, and how far it is. One row
//! each: there is one upgrade at a time.

use crate::audit::note;
use crate::db::write;
use crate::rows::{ROW_BYTES_MAX, read_row};
use crate::{Store, StoreError, Timestamp, now};

/// Instances that an upgrade restarts at a time, at most.
pub const UPGRADE_PARALLEL_MAX: i64 = 16;
/// Characters of a message.
const MESSAGE_MAX: usize = 500;

/// What operators want of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeWanted {
    /// It goes on.
    Running,
    /// It begins no further instance.
    Paused,
    /// It ends where it is.
    Aborted,
}

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeState {
    /// It restarts instances, or will.
    Running,
    /// It waits to be resumed.
    Paused,
    /// It stopped by itself, because instances failed.
    Stopped,
    /// It was ended by an operator.
    Aborted,
    /// All instances that run have the new image.
    Done,
}

/// An upgrade, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ImageUpgrade {
    /// 24 letters and digits.
    pub id: String,
    /// What operators want of it.
    pub wanted: UpgradeWanted,
    /// Instances that are restarted at a time.
    pub parallel: i64,
    /// Counts how many times it was told to go on.
    #[serde(skip)]
    pub attempt: i64,
    /// The actor as in the audit log.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When that was last recorded: what ended before is counted.
    #[serde(skip)]
    pub counted_at: Option<Timestamp>,
    /// How far it is; all zero until the provisioner begins.
    #[serde(flatten)]
    pub progress: UpgradeProgress,
}

/// How far an upgrade is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UpgradeProgress {
    /// Where it stands.
    pub state: UpgradeState,
    /// Instances that had another image when it began.
    pub total: i64,
    /// Those that have the new image.
    pub done: i64,
    /// Those whose restart failed.
    pub failed: i64,
    /// Failures since the last instance that succeeded.
    #[serde(skip)]
    pub failures_in_row: i64,
    /// What it does or waits for, or why it stopped (`what: how to fix it`).
    pub message: Option<String>,
}

impl Default for UpgradeProgress {
    fn default() -> Self {
        let state = UpgradeState::Running;
        Self { state, total: 0, done: 0, failed: 0, failures_in_row: 0, message: None }
    }
}

impl ImageUpgrade {
    /// Whether it goes on, or can be resumed.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        !matches!(self.progress.state, UpgradeState::Aborted | UpgradeState::Done)
    }

    /// Whether nothing more happens unless an operator asks for it.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        match self.progress.state {
            UpgradeState::Running => false,
            UpgradeState::Paused => self.wanted == UpgradeWanted::Paused,
            UpgradeState::Stopped | UpgradeState::Aborted | UpgradeState::Done => true,
        }
    }
}

impl UpgradeWanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let all = [Self::Running, Self::Paused, Self::Aborted];
        all.into_iter().find(|it| it.as_str() == text).ok_or(StoreError::Corrupt("image upgrade"))
    }
}

impl UpgradeState {
    /// Its word in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let all = [Self::Running, Self::Paused, Self::Stopped, Self::Aborted, Self::Done];
        all.into_iter().find(|it| it.as_str() == text).ok_or(StoreError::Corrupt("state of an image upgrade"))
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    wanted: String,
    parallel: i64,
    attempt: i64,
    requested_by: String,
    created_at: Timestamp,
    state: Option<String>,
    total: Option<i64>,
    done: Option<i64>,
    failed: Option<i64>,
    failures_in_row: Option<i64>,
    message: Option<String>,
    changed_at: Option<Timestamp>,
}

impl TryFrom<Row> for ImageUpgrade {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wanted = UpgradeWanted::parse(&row.wanted)?;
        let state = match row.state.as_deref().map_or(Ok(UpgradeState::Running), UpgradeState::parse)? {
            UpgradeState::Done => UpgradeState::Done,
            // Nothing has to happen for that.
            _ if wanted == UpgradeWanted::Aborted => UpgradeState::Aborted,
            state => state,
        };
        let progress = UpgradeProgress {
            state,
            total: row.total.unwrap_or(0),
            done: row.done.unwrap_or(0),
            failed: row.failed.unwrap_or(0),
            failures_in_row: row.failures_in_row.unwrap_or(0),
            message: row.message,
        };
        Ok(Self {
            id: row.id,
            wanted,
            // Another process may have written any number.
            parallel: row.parallel.clamp(1, UPGRADE_PARALLEL_MAX),
            attempt: row.attempt,
            requested_by: row.requested_by,
            created_at: row.created_at,
            counted_at: row.changed_at,
            progress,
        })
    }
}

/// What was recorded of an earlier attempt doesn't count.
const READ: &str = "SELECT u.id, u.wanted, u.parallel, u.attempt, u.requested_by, u.created_at, p.state, p.total, p.done, \
     p.failed, p.failures_in_row, p.message, p.changed_at FROM image_upgrade u LEFT JOIN image_upgrade_progress p \
     ON p.one = 1 AND p.upgrade_id = u.id AND p.attempt = u.attempt WHERE u.one = 1";
const START: &str = "INSERT INTO image_upgrade (one, id, wanted, parallel, attempt, requested_by, created_at, revision) \
     VALUES (1, $1, 'running', $2, 1, $3, $4, $5) ON CONFLICT (one) DO UPDATE SET id = excluded.id, \
     wanted = excluded.wanted, parallel = excluded.parallel, attempt = excluded.attempt, \
     requested_by = excluded.requested_by, created_at = excluded.created_at, revision = excluded.revision";
const SET_WANTED: &str = "UPDATE image_upgrade SET wanted = $1, attempt = attempt + $2, parallel = $3, revision = $4 WHERE id = $5";
const RECORD: &str = "INSERT INTO image_upgrade_progress (one, upgrade_id, attempt, state, total, done, failed, \
     failures_in_row, message, changed_at, revision) SELECT 1, id, attempt, $3, $4, $5, $6, $7, $8, $9, $10 \
     FROM image_upgrade WHERE id = $1 AND attempt = $2 ON CONFLICT (one) DO UPDATE SET upgrade_id = excluded.upgrade_id, \
     attempt = excluded.attempt, state = excluded.state, total = excluded.total, done = excluded.done, \
     failed = excluded.failed, failures_in_row = excluded.failures_in_row, message = excluded.message, \
     changed_at = excluded.changed_at, revision = excluded.revision";

impl Store {
    /// The last upgrade, if there was one.
    ///
    /// # Errors
    /// `Corrupt` if a row is invalid.
    pub async fn image_upgrade(&self) -> Result<Option<ImageUpgrade>, StoreError> {
        let row: Option<Result<Row, StoreError>> = read_row!(self, ROW_BYTES_MAX, sqlx::query(READ))?;
        row.map(|row| ImageUpgrade::try_from(row?)).transpose()
    }

    /// Asks for an upgrade, `parallel` instances at a time.
    ///
    /// # Errors
    /// `AlreadyExists("image upgrade")` if there is an unfinished one.
    pub async fn start_image_upgrade(&self, parallel: i64) -> Result<(), StoreError> {
        let parallel = parallel.clamp(1, UPGRADE_PARALLEL_MAX);
        write!(self, tx, revision => {
            let row: Option<Row> = sqlx::query_as(READ).fetch_optional(&mut *tx).await?;
            let last = row.map(ImageUpgrade::try_from).transpose()?;
            if last.is_some_and(|last| last.is_unfinished()) {
                return Err(StoreError::AlreadyExists("image upgrade"));
            }
            let id = crate::id::random();
            sqlx::query(START).bind(&id).bind(parallel).bind(&*self.actor).bind(now()).bind(revision)
                .execute(&mut *tx).await?;
            note!(self, tx, "image.upgrade", "image".to_owned(), format!("{parallel} at a time"));
        });
        Ok(())
    }

    /// Pauses, resumes or aborts the unfinished upgrade. To resume one that has stopped forgets its failures.
    ///
    /// # Errors
    /// `NotFound("unfinished image upgrade")`.
    pub async fn set_image_upgrade(
        &self,
        wanted: UpgradeWanted,
        parallel: Option<i64>,
    ) -> Result<(), StoreError> {
        write!(self, tx, revision => {
            let row: Option<Row> = sqlx::query_as(READ).fetch_optional(&mut *tx).await?;
            let last = row.map(ImageUpgrade::try_from).transpose()?.filter(ImageUpgrade::is_unfinished);
            let Some(last) = last else {
                return Err(StoreError::NotFound("unfinished image upgrade"));
            };
            let is_again = wanted == UpgradeWanted::Running && last.progress.state == UpgradeState::Stopped;
            let parallel = parallel.unwrap_or(last.parallel).clamp(1, UPGRADE_PARALLEL_MAX);
            sqlx::query(SET_WANTED).bind(wanted.as_str()).bind(i64::from(is_again)).bind(parallel).bind(revision)
                .bind(&last.id).execute(&mut *tx).await?;
            let action = match wanted {
                UpgradeWanted::Running => "image.upgrade_resume",
                UpgradeWanted::Paused => "image.upgrade_pause",
                UpgradeWanted::Aborted => "image.upgrade_abort",
            };
            note!(self, tx, action, "image".to_owned(), format!("{parallel} at a time"));
        });
        Ok(())
    }

    /// Records how far an upgrade is, unless another or a later attempt was asked for meanwhile. `counted_at`: what ended before
    /// is counted.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn record_image_upgrade(
        &self,
        upgrade: &ImageUpgrade,
        progress: &UpgradeProgress,
        counted_at: Timestamp,
    ) -> Result<(), StoreError> {
        let message: Option<String> =
            progress.message.as_ref().map(|it| it.chars().take(MESSAGE_MAX).collect());
        write!(self, tx, revision => {
            sqlx::query(RECORD).bind(&upgrade.id).bind(upgrade.attempt).bind(progress.state.as_str())
                .bind(progress.total).bind(progress.done).bind(progress.failed).bind(progress.failures_in_row)
                .bind(&message).bind(counted_at).bind(revision).execute(&mut *tx).await?;
        });
        Ok(())
    }
}
