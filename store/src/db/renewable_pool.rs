//! A pool whose connections can all be replaced at once.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};

type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A pool whose connections can all be replaced at once. It connects when it is used.
pub(crate) struct RenewablePool<DB: Database> {
    current: Mutex<Pool<DB>>,
    options: PoolOptions<DB>,
    connect: ConnectOptions<DB>,
}

impl<DB: Database> RenewablePool<DB> {
    pub(super) fn new(options: PoolOptions<DB>, connect: ConnectOptions<DB>) -> Self {
        let pool = options.clone().connect_lazy_with(connect.clone());
        Self { current: Mutex::new(pool), options, connect }
    }

    /// The current pool. Get it again for each use.
    pub(crate) fn get(&self) -> Pool<DB> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn connect_options(&self) -> &ConnectOptions<DB> {
        &self.connect
    }

    /// Replaces the pool, unless it is closed. The old one's connections end with their last use.
    pub(super) fn renew(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.is_closed() {
            *current = self.options.clone().connect_lazy_with(self.connect.clone());
        }
    }
}

impl<DB: Database> fmt::Debug for RenewablePool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewablePool")
    }
}
