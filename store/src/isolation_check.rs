//! Isolation checks: how each running container was last found to be shut off from everything else. One row per instance.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::rows::{QUERIED_MAX, ROW_BYTES_MAX, read_row, read_rows, readable};
use crate::{Store, StoreError, Timestamp, now};

/// Older rows are deleted: their containers exist no more, or nothing is checked.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(48);
/// Characters of a detail.
const DETAIL_MAX: usize = 1_000;
/// Failures that a summary names.
const NAMED_MAX: i64 = 5;

/// How a part of a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed,
    /// It couldn't be checked; the detail says why.
    Unknown,
}

impl CheckResult {
    /// Its word in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let all = [Self::Passed, Self::Failed, Self::Unknown];
        all.into_iter().find(|it| it.as_str() == text).ok_or(StoreError::Corrupt("isolation check"))
    }
}

/// The newest check of one instance's container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IsolationCheck {
    /// The instance.
    #[serde(skip)]
    pub instance_id: String,
    /// The container's id in Docker.
    #[serde(skip)]
    pub container: String,
    /// No port is published.
    pub ports: CheckResult,
    /// User, capabilities, read-only root, no new privileges, processes, memory, and only its own network and volume.
    pub restrictions: CheckResult,
    /// From its network it reaches neither other containers nor the host, and no route leads elsewhere.
    pub reachability: CheckResult,
    /// Its memcached refuses commands before the lane's login, and accepts that.
    pub login: CheckResult,
    /// The id of the image that the container was created from.
    pub image: String,
    /// Whether new containers get another image.
    pub outdated: bool,
    /// What failed, and why something wasn't checked.
    pub detail: String,
    /// When.
    pub checked_at: Timestamp,
}

/// All newest checks of containers that run.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct IsolationSummary {
    /// Instances that were checked.
    pub checked: i64,
    /// When the one was checked whose check is the oldest.
    pub oldest_at: Option<Timestamp>,
    /// Instances of which some part failed.
    pub failed: i64,
    /// Instances of which some part couldn't be checked.
    pub incomplete: i64,
    /// Instances with another image than new ones get.
    pub outdated: i64,
    /// Some of those that failed, the oldest check first.
    pub failures: Vec<IsolationFailure>,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct IsolationFailure {
    /// The e-mail address of the cache's user.
    pub email: String,
    /// The cache's name.
    pub cache: String,
    /// What failed.
    pub detail: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    instance_id: String,
    container: String,
    ports: String,
    restrictions: String,
    reachability: String,
    login: String,
    image: String,
    outdated: i64,
    detail: String,
    checked_at: Timestamp,
}

impl TryFrom<Row> for IsolationCheck {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            instance_id: row.instance_id,
            container: row.container,
            ports: CheckResult::parse(&row.ports)?,
            restrictions: CheckResult::parse(&row.restrictions)?,
            reachability: CheckResult::parse(&row.reachability)?,
            login: CheckResult::parse(&row.login)?,
            image: row.image,
            outdated: row.outdated != 0,
            detail: row.detail,
            checked_at: row.checked_at,
        })
    }
}

const SET: &str = "INSERT INTO isolation_checks (instance_id, container, ports, restrictions, reachability, login, image, \
     outdated, detail, checked_at) SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id) DO UPDATE SET container = excluded.container, ports = excluded.ports, \
     restrictions = excluded.restrictions, reachability = excluded.reachability, login = excluded.login, \
     image = excluded.image, outdated = excluded.outdated, detail = excluded.detail, checked_at = excluded.checked_at";
/// The newest check of the instance `$1`, unless that has another container by now.
pub(crate) const OF_INSTANCE: &str = "SELECT k.instance_id, k.container, k.ports, k.restrictions, k.reachability, k.login, \
     k.image, k.outdated, k.detail, k.checked_at FROM isolation_checks k JOIN routes r ON r.instance_id = k.instance_id \
     WHERE k.instance_id = $1 AND r.container = k.container";

/// The newest check of each instance, the oldest first.
pub(crate) const ALL: &str = "SELECT instance_id, container, ports, restrictions, reachability, login, image, outdated, detail, \
     checked_at FROM isolation_checks ORDER BY checked_at LIMIT $1";

/// Those of containers that run.
macro_rules! of_running {
    ($select:literal, $rest:literal) => {
        concat!($select, " FROM isolation_checks k JOIN routes r ON r.instance_id = k.instance_id ", $rest)
    };
}
const COUNTS: &str = of_running!(
    "SELECT COUNT(*), CAST(MIN(k.checked_at) AS BIGINT), \
     CAST(COALESCE(SUM(CASE WHEN 'failed' IN (k.ports, k.restrictions, k.reachability, k.login) THEN 1 ELSE 0 END), 0) AS BIGINT), \
     CAST(COALESCE(SUM(CASE WHEN 'unknown' IN (k.ports, k.restrictions, k.reachability, k.login) THEN 1 ELSE 0 END), 0) AS BIGINT), \
     CAST(COALESCE(SUM(CASE WHEN k.outdated <> 0 THEN 1 ELSE 0 END), 0) AS BIGINT)",
    "WHERE r.state = 'running' AND r.container = k.container"
);
const FAILURES: &str = of_running!(
    "SELECT u.email, c.name AS cache, k.detail",
    "JOIN instances i ON i.id = k.instance_id JOIN caches c ON c.id = i.cache_id JOIN users u ON u.id = c.user_id \
     WHERE r.state = 'running' AND r.container = k.container \
     AND 'failed' IN (k.ports, k.restrictions, k.reachability, k.login) ORDER BY k.checked_at LIMIT $1"
);

impl Store {
    /// Records checks. Ignores unknown instances.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn set_isolation_checks(&self, all: &[IsolationCheck]) -> Result<(), StoreError> {
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        write_unversioned!(self, tx => {
            for it in all {
                let detail: String = it.detail.chars().take(DETAIL_MAX).collect();
                sqlx::query(SET).bind(&it.instance_id).bind(&it.container).bind(it.ports.as_str())
                    .bind(it.restrictions.as_str()).bind(it.reachability.as_str()).bind(it.login.as_str())
                    .bind(&it.image).bind(i64::from(it.outdated)).bind(detail).bind(it.checked_at)
                    .execute(&mut *tx).await?;
            }
            sqlx::query("DELETE FROM isolation_checks WHERE checked_at < $1").bind(forgotten).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The newest check of an instance's container, if there was one.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn isolation_check(&self, instance_id: &str) -> Result<Option<IsolationCheck>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, ROW_BYTES_MAX, sqlx::query(OF_INSTANCE).bind(instance_id))?;
        row.map(|row| IsolationCheck::try_from(row?)).transpose()
    }

    /// The newest check of each instance, the oldest first, also of containers that exist no more.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn isolation_checks(&self) -> Result<Vec<IsolationCheck>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(ALL).bind(QUERIED_MAX))?;
        Ok(readable("isolation checks", rows.into_iter().map(|row| IsolationCheck::try_from(row?))))
    }

    /// What the newest checks of all containers that run say together.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn isolation_summary(&self) -> Result<IsolationSummary, StoreError> {
        let counts: (i64, Option<Timestamp>, i64, i64, i64) =
            read!(self, pool => sqlx::query_as(COUNTS).fetch_one(pool).await)?;
        let (checked, oldest_at, failed, incomplete, outdated) = counts;
        let failures: Vec<Result<IsolationFailure, StoreError>> = if failed == 0 {
            Vec::new()
        } else {
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(FAILURES).bind(NAMED_MAX))?
        };
        let failures = failures.into_iter().collect::<Result<_, _>>()?;
        Ok(IsolationSummary { checked, oldest_at, failed, incomplete, outdated, failures })
    }
}
