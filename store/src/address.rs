//! Container addresses: memgate assigns them, because Docker gives a freed address to the next container at
//! once, and a stale route would then lead to another user's cache. A released address is not leased again until
//! a cooldown has passed.

use std::time::Duration;

use crate::db::write_unversioned;
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, now};

/// The prefix of each network: 1,022 addresses, since a Linux bridge has at most 1,023 ports.
pub const NETWORK_PREFIX: u8 = 22;

/// A Docker bridge network of this installation.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Network {
    /// Its name in Docker.
    pub name: String,
    /// Its bridge's name on the host, at most 15 characters.
    pub bridge: String,
    /// CIDR.
    pub subnet: String,
    /// The host's address in the subnet.
    pub gateway: String,
}

/// An address that is leased to an instance.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// The address.
    pub address: String,
    /// The network's name in Docker.
    pub network: String,
}

/// Locks the revision's row, so that two concurrent leases on PostgreSQL don't choose the same address. SQLite has
/// only one writer at a time.
const LOCK: &str = "UPDATE revision SET value = value WHERE one = 1";

impl Store {
    /// All networks, oldest first. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// `TooMany("networks")`.
    pub async fn networks(&self) -> Result<Vec<Network>, StoreError> {
        let sql = "SELECT name, bridge, subnet, gateway FROM networks ORDER BY created_at, name LIMIT $1";
        let rows: Vec<Result<Network, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(QUERIED_MAX))?;
        if rows.len() > LISTED_MAX {
            return Err(StoreError::TooMany("networks"));
        }
        Ok(readable("networks", rows))
    }

    /// The subnets on which instances have leased addresses, and how many have. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn subnets_in_use(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT n.subnet, COUNT(*) FROM networks n JOIN addresses a ON a.network = n.name \
                   WHERE a.instance_id IS NOT NULL GROUP BY n.subnet ORDER BY n.subnet LIMIT $1";
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(QUERIED_MAX))?;
        Ok(readable("networks", rows))
    }

    /// The names of all networks, also of invalid rows: a network of any other name in Docker is an orphan.
    ///
    /// # Errors
    /// `TooMany("networks")`: then nobody knows which networks are orphans.
    pub async fn network_names(&self) -> Result<Vec<String>, StoreError> {
        // Docker's names are shorter.
        let sql = "SELECT SUBSTR(CAST(name AS TEXT), 1, 200) FROM networks LIMIT $1";
        let names: Vec<Result<(String,), StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(QUERIED_MAX))?;
        if names.len() > LISTED_MAX {
            return Err(StoreError::TooMany("networks"));
        }
        Ok(readable("network names", names.into_iter().map(|name| Ok(name?.0))))
    }

    /// Adds a network with the addresses that may be leased on it.
    ///
    /// # Errors
    /// `AlreadyExists` if its name, bridge, subnet or one of the addresses is taken; then nothing is added.
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

    /// The address that the instance has leased, or a free one that was released at least `cooldown` ago; `None` if
    /// there is none.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn lease_address(
        &self,
        instance_id: &str,
        cooldown: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let held = "SELECT address, network FROM addresses WHERE instance_id = $1";
        let take = "UPDATE addresses SET instance_id = $1, released_at = NULL WHERE address = \
                    (SELECT address FROM addresses WHERE instance_id IS NULL \
                     AND (released_at IS NULL OR released_at <= $2) \
                     ORDER BY COALESCE(released_at, 0), address LIMIT 1) RETURNING address, network";
        let rested = now().saturating_sub(cooldown);
        Ok(write_unversioned!(self, tx => {
            sqlx::query(LOCK).execute(&mut *tx).await?;
            match sqlx::query_as(held).bind(instance_id).fetch_optional(&mut *tx).await? {
                Some(lease) => Some(lease),
                None => sqlx::query_as(take).bind(instance_id).bind(rested).fetch_optional(&mut *tx).await?,
            }
        }))
    }

    /// Releases an instance's address; its cooldown starts now.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn release_address(&self, instance_id: &str) -> Result<(), StoreError> {
        let sql = "UPDATE addresses SET instance_id = NULL, released_at = $1 WHERE instance_id = $2";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(instance_id).execute(&mut *tx).await?;
        });
        Ok(())
    }
}
