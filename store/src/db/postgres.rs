//! PostgreSQL: one pool for reading and writing.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::renewable_pool::RenewablePool;
use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, Db, INSTALLATION_ID, StoreOptions, schema};
use crate::{StoreError, error};

/// Opens a database that has this version's tables.
pub(super) async fn open_existing(url: &str, options: &StoreOptions) -> Result<Db, StoreError> {
    let (connect, mut connection) = connect(url, options).await?;
    let applied = sqlx::query_as(schema::APPLIED).fetch_all(&mut connection).await;
    schema::require_current(applied, &name(&connect))?;
    connection.close().await?;
    Ok(pool(connect, options))
}

/// The installation's id, if the database has recorded one.
pub(super) async fn installation_id(url: &str, options: &StoreOptions) -> Result<Option<String>, StoreError> {
    let (_, mut connection) = connect(url, options).await?;
    let found = sqlx::query_scalar(INSTALLATION_ID).fetch_optional(&mut connection).await;
    connection.close().await?;
    match found {
        Err(error) if error::is_missing_table(&error) => Ok(None),
        found => Ok(found?),
    }
}

/// Opens the database; creates its tables, or migrates them, if they aren't current.
pub(super) async fn migrate(url: &str, options: &StoreOptions) -> Result<Db, StoreError> {
    let (connect, mut connection) = connect(url, options).await?;
    schema::migrate(&mut connection).await?;
    connection.close().await?;
    Ok(pool(connect, options))
}

/// Connects, not through the pool: it would hide the cause behind a time-out, and its lock time-out is too short for
/// migrations.
pub(crate) async fn connect(
    url: &str,
    options: &StoreOptions,
) -> Result<(PgConnectOptions, PgConnection), StoreError> {
    let malformed = |source| StoreError::Open {
        what: "(store.url)".into(),
        fix: "write it as postgres://user:password@host/database".into(),
        source,
    };
    // sqlx accepts any scheme, and may then take a password for the database's name.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(malformed(None));
    }
    let connect: PgConnectOptions = url.parse().map_err(|error| malformed(Some(error)))?;
    let connect = connect.application_name(&options.application);
    let open_error = |error| StoreError::Open {
        what: name(&connect),
        fix: "check store.url, and that PostgreSQL runs and accepts this user".into(),
        source: Some(error),
    };
    let connection = connect.connect().await.map_err(open_error)?;
    Ok((connect, connection))
}

/// Runs a statement with names or literals that can't be parameters: the caller has quoted them.
pub(crate) async fn run(connection: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// The name of a table, a column, a database or a user as an identifier of a statement.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The database and its host.
fn name(connect: &PgConnectOptions) -> String {
    format!("{} on {}", connect.get_database().unwrap_or("postgres"), connect.get_host())
}

fn pool(connect: PgConnectOptions, options: &StoreOptions) -> Db {
    // Every write waits for the revision's row: a client that hangs or vanishes must release it.
    let millis = |time: std::time::Duration| format!("{}ms", time.as_millis());
    let connect = connect.options([
        ("lock_timeout", millis(options.lock_wait.attempt_timeout())),
        ("idle_in_transaction_session_timeout", millis(BUSY_TIMEOUT)),
    ]);
    let pool = PgPoolOptions::new().max_connections(options.connections_max).acquire_timeout(ACQUIRE_TIMEOUT);
    Db::Postgres(Arc::new(RenewablePool::new(pool, connect)))
}
