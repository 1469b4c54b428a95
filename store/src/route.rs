//! Routes: where each instance's memcached is, as the provisioner last saw it.

use crate::db::write;
use crate::{InstanceState, Millis, Store, StoreError, now};

/// What is so about an instance.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Route {
    /// What it does.
    pub state: InstanceState,
    /// Goes up with every new container: lanes of an older one are closed.
    pub generation: i64,
    /// Its address on our bridge, while it has one. Not for users' eyes.
    pub address: Option<String>,
    /// The container's id, while there is one.
    pub container: Option<String>,
    /// memcached's version, once it has answered.
    pub version: Option<String>,
    /// Why it is failed or pending, in words for its owner.
    pub message: Option<String>,
    /// When any of this last changed.
    pub changed_at: Millis,
}

/// What the provisioner has seen, to be recorded.
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

/// The columns of a route in a left join: all empty when there is none.
#[derive(sqlx::FromRow)]
pub(crate) struct RouteColumns {
    state: Option<String>,
    generation: Option<i64>,
    address: Option<String>,
    container: Option<String>,
    version: Option<String>,
    message: Option<String>,
    changed_at: Option<Millis>,
}

impl RouteColumns {
    pub(crate) fn into_route(self) -> Result<Option<Route>, StoreError> {
        let (Some(state), Some(generation), Some(changed_at)) =
            (self.state, self.generation, self.changed_at)
        else {
            return Ok(None);
        };
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
    /// Whether recording `seen` would change anything.
    #[must_use]
    pub fn says(&self, seen: &Observed) -> bool {
        self.state == seen.state
            && self.generation == seen.generation
            && self.address == seen.address
            && self.container == seen.container
            && self.version == seen.version
            && self.message == seen.message
    }
}

impl Store {
    /// Records what is so. Touches the revision: call it only on a change (see [`Route::says`]).
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
