//! Container addresses: ours to assign, and to rest before another user gets them.
//!
//! Docker hands a freed address to the next container at once, and a stale route would then lead into
//! somebody else's cache. So an address is leased to an instance, and after its release it rests.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::{Millis, Store, StoreError, now};

/// A bridge network of ours.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Network {
    /// Its name in Docker.
    pub name: String,
    /// Its bridge's name on the host, at most 15 characters.
    pub bridge: String,
    /// In CIDR form.
    pub subnet: String,
    /// The host's address on it.
    pub gateway: String,
}

/// An address held by an instance.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// The address.
    pub address: String,
    /// The network's name in Docker.
    pub network: String,
}

/// Holds the revision's row without moving it. On PostgreSQL two leases at once would else choose the
/// same address, and the one that comes second would find nothing; on SQLite writers take turns anyhow.
const TAKE_TURNS: &str = "UPDATE revision SET value = value WHERE one = 1";

impl Store {
    /// Our networks, oldest first.
    pub async fn networks(&self) -> Result<Vec<Network>, StoreError> {
        let sql = "SELECT name, bridge, subnet, gateway FROM networks ORDER BY created_at, name";
        Ok(read!(self, pool => sqlx::query_as(sql).fetch_all(pool).await)?)
    }

    /// Adds a network with the addresses that may be leased on it. `AlreadyExists` if its name, bridge, subnet or
    /// one of the addresses is ours already; then nothing is added.
    pub async fn add_network(&self, network: &Network, addresses: &[String]) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query("INSERT INTO networks (name, bridge, subnet, gateway, created_at) VALUES ($1, $2, $3, $4, $5)")
                .bind(&network.name).bind(&network.bridge).bind(&network.subnet).bind(&network.gateway)
                .bind(now()).execute(&mut *tx).await.map_err(|e| StoreError::unique(e, "network"))?;
            for address in addresses {
                sqlx::query("INSERT INTO addresses (address, network) VALUES ($1, $2)")
                    .bind(address).bind(&network.name).execute(&mut *tx).await
                    .map_err(|e| StoreError::unique(e, "network address"))?;
            }
        });
        Ok(())
    }

    /// The address an instance holds, or a free one that has rested for `rest`; `None` when all networks are full.
    pub async fn lease_address(
        &self,
        instance_id: &str,
        rest: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let held = "SELECT address, network FROM addresses WHERE instance_id = $1";
        let take = "UPDATE addresses SET instance_id = $1, released_at = NULL WHERE address = \
                    (SELECT address FROM addresses WHERE instance_id IS NULL \
                     AND (released_at IS NULL OR released_at <= $2) \
                     ORDER BY COALESCE(released_at, 0), address LIMIT 1) RETURNING address, network";
        let rested = now().saturating_sub(Millis::try_from(rest.as_millis()).unwrap_or(Millis::MAX));
        Ok(write_unversioned!(self, tx => {
            sqlx::query(TAKE_TURNS).execute(&mut *tx).await?;
            match sqlx::query_as(held).bind(instance_id).fetch_optional(&mut *tx).await? {
                Some(lease) => Some(lease),
                None => sqlx::query_as(take).bind(instance_id).bind(rested).fetch_optional(&mut *tx).await?,
            }
        }))
    }

    /// Gives an instance's address back; it rests from now on.
    pub async fn release_address(&self, instance_id: &str) -> Result<(), StoreError> {
        let sql = "UPDATE addresses SET instance_id = NULL, released_at = $1 WHERE instance_id = $2";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(instance_id).execute(&mut *tx).await?;
        });
        Ok(())
    }
}
