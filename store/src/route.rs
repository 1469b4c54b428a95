//! Routes: the observed state of each instance and its address, recorded by the provisioner.

use crate::db::write;
use crate::{InstanceState, Store, StoreError, Timestamp, now};

/// No instance has so many containers: somebody who writes more wants that there is no next generation.
const GENERATION_MAX: i64 = i64::MAX / 2;

/// The observed state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Route {
    /// The state.
    pub state: InstanceState,
    /// Incremented with every new container: lanes of an older generation are closed.
    pub generation: i64,
    /// Its address on a bridge network, while it has one. Not shown to users.
    pub address: Option<String>,
    /// The container's id in Docker, while there is one.
    pub container: Option<String>,
    /// memcached's version, once it has answered.
    pub version: Option<String>,
    /// Why it is failed or pending, for the owner.
    pub message: Option<String>,
    /// When the route last changed.
    pub changed_at: Timestamp,
}

/// What the provisioner has observed and wants to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// See [`Route`].
    pub state: InstanceState,
    /// See [`Route`].
    pub generation: i64,
    /// See [`Route`].
    pub address: Option<String>,
    /// See [`Route`].
    pub container: Option<String>,
    /// See [`Route`].
    pub version: Option<String>,
    /// See [`Route`].
    pub message: Option<String>,
}

/// The columns of a route in a left join: all NULL if there is none.
#[derive(sqlx::FromRow)]
pub(crate) struct RouteColumns {
    state: Option<String>,
    generation: Option<i64>,
    address: Option<String>,
    container: Option<String>,
    version: Option<String>,
    message: Option<String>,
    changed_at: Option<Timestamp>,
}

impl RouteColumns {
    pub(crate) fn into_route(self) -> Result<Option<Route>, StoreError> {
        let (Some(state), Some(generation), Some(changed_at)) =
            (self.state, self.generation, self.changed_at)
        else {
            return Ok(None);
        };
        // Each new container has the next one.
        if !(0..=GENERATION_MAX).contains(&generation) {
            return Err(StoreError::Corrupt("generation"));
        }
        Ok(Some(Route {
            state: InstanceState::parse(&state)?,
            generation,
            address: self.address,
            container: self.container,
            version: self.version,
            message: self.message,
            changed_at,
        }))
    }
}

impl Route {
    /// Whether recording `seen` would change nothing.
    #[must_use]
    pub fn matches(&self, seen: &Observed) -> bool {
        self.state == seen.state
            && self.generation == seen.generation
            && self.address == seen.address
            && self.container == seen.container
            && self.version == seen.version
            && self.message == seen.message
    }
}

impl Store {
    /// Records an instance's route. Takes a revision, so call it only for a change (see [`Route::matches`]).
    ///
    /// # Errors
    /// `NotFound("instance")`.
    pub async fn record_route(&self, instance_id: &str, seen: &Observed) -> Result<(), StoreError> {
        let sql = "INSERT INTO routes (instance_id, state, generation, address, container, version, message, \
                   changed_at, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                   ON CONFLICT (instance_id) DO UPDATE SET state = excluded.state, \
                   generation = excluded.generation, address = excluded.address, \
                   container = excluded.container, version = excluded.version, message = excluded.message, \
                   changed_at = excluded.changed_at, revision = excluded.revision";
        write!(self, tx, revision => {
            sqlx::query(sql).bind(instance_id).bind(seen.state.as_str()).bind(seen.generation)
                .bind(&seen.address).bind(&seen.container).bind(&seen.version).bind(&seen.message)
                .bind(now()).bind(revision).execute(&mut *tx).await
                .map_err(|e| StoreError::reference(e, "instance"))?;
        });
        Ok(())
    }
}
