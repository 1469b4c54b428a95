//! PostgreSQL: one pool for reading and writing.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, CONNECTIONS_MAX, Db, migrate};
use crate::StoreError;

pub(super) async fn open(url: &str) -> Result<Db, StoreError> {
    let malformed = |source| StoreError::Open {
        what: "(store.url)".into(),
        fix: "write it as postgres://user:password@host/database".into(),
        source,
    };
    // sqlx accepts any scheme, and may then take a password for the database's name.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(malformed(None));
    }
    let options: PgConnectOptions = url.parse().map_err(|error| malformed(Some(error)))?;
    let what = format!("{} on {}", options.get_database().unwrap_or("postgres"), options.get_host());
    let open_error = |error| StoreError::Open {
        what,
        fix: "check store.url, and that PostgreSQL runs and accepts this user".into(),
        source: Some(error),
    };
    // Not through the pool: it would hide the cause behind a time-out, and its lock time-out is too short for
    // migrations.
    let mut connection = options.connect().await.map_err(open_error)?;
    migrate(&mut connection).await?;
    connection.close().await?;

    // Every write waits for the revision's row: a client that hangs or vanishes must release it.
    let wait = format!("{}ms", BUSY_TIMEOUT.as_millis());
    let options = options.options([("lock_timeout", &wait), ("idle_in_transaction_session_timeout", &wait)]);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(Db::Postgres(pool.connect_with(options).await?))
}
