//! How many connections to the database are open, and how many of them are in use.

use super::renewable_pool::RenewablePool;
use super::{Db, Store};

/// One pool's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// `read` and `write` of SQLite, `shared` of PostgreSQL.
    pub name: &'static str,
    /// Connections that something uses now.
    pub in_use: usize,
    /// Connections that are open and free.
    pub idle: usize,
    /// Connections that there may be.
    pub max: usize,
}

impl Store {
    /// The connections of this store and its clones, by pool.
    #[must_use]
    pub fn pool_use(&self) -> Vec<PoolUse> {
        match &self.db {
            Db::Sqlite { read, write, .. } => vec![of("read", read), of("write", write)],
            Db::Postgres(pool) => vec![of("shared", pool)],
        }
    }
}

fn of<DB: sqlx::Database>(name: &'static str, pool: &RenewablePool<DB>) -> PoolUse {
    let pool = pool.get();
    let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let (open, idle) = (number(pool.size()), pool.num_idle());
    PoolUse {
        name,
        in_use: open.saturating_sub(idle),
        idle,
        max: number(pool.options().get_max_connections()),
    }
}
