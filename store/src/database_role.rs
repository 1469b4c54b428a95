//! The database users of the roles, with PostgreSQL: each may do what its role has to, and nothing else. So code that runs as
//! the web UI can't write a route, and code that runs as a proxy can't read or write an account.

mod grants;

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sqlx::{PgConnection, Postgres};

use crate::db::postgres::{quoted, run};
use crate::db::{Db, RenewablePool};
use crate::token::scram_keys;
use crate::{Store, StoreError};

/// A role that has a database user of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseRole {
    /// Reads grants; writes usage, denials and connections.
    Proxy,
    /// Reads the desired state; writes the observed one.
    Provisioner,
    /// Writes users, caches and tokens.
    Webui,
}

impl DatabaseRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Proxy, Self::Provisioner, Self::Webui];
}

/// A role's database user. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleUser {
    /// Whose user it is.
    pub role: DatabaseRole,
    /// The user's name: lower-case letters, digits and `_`.
    pub name: String,
    /// Printable ASCII.
    pub password: String,
}

/// Whether a user's password is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Password {
    /// Only if the user is created.
    Keep,
    /// In any case. Connections go on until [`Store::end_connections_of`]; new ones need the new password.
    Set,
}

impl fmt::Debug for RoleUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleUser").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

impl RoleUser {
    /// A user of an installation with a random password of 256 bits.
    #[must_use]
    pub fn generate(role: DatabaseRole, installation: &str) -> Self {
        let role_name = match role {
            DatabaseRole::Proxy => "proxy",
            DatabaseRole::Provisioner => "provisioner",
            DatabaseRole::Webui => "webui",
        };
        let bytes: [u8; 32] = rand::random();
        Self { role, name: format!("memgate_{installation}_{role_name}"), password: crate::keys::hex(&bytes) }
    }
}

/// The user of this connection, whether it may create others, and the names of database and schema.
const CONNECTED: &str = "SELECT CAST(current_user AS TEXT) AS own_name, \
     COALESCE((SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user), FALSE) AS may_create, \
     CAST(current_database() AS TEXT) AS database, CAST(COALESCE(current_schema(), 'public') AS TEXT) AS schema";
const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)";
/// Whether this version's table exists: an older schema lacks some.
const TABLE_EXISTS: &str = "SELECT to_regclass(quote_ident($1)) IS NOT NULL";
/// Ends the connections of the user `$1` to this database, if this user may.
const END_CONNECTIONS: &str = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE usename = $1 AND datname = current_database() AND pid <> pg_backend_pid() \
     AND (pg_has_role(usename, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))";
const COUNT_CONNECTIONS: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = $1 \
     AND datname = current_database() AND pid <> pg_backend_pid() \
     AND NOT (pg_has_role(usename, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))";

/// How this process is connected.
#[derive(sqlx::FromRow)]
struct Connected {
    own_name: String,
    may_create: bool,
    database: String,
    schema: String,
}

/// Connections of one role's user: however many it opens, the others have some left.
const CONNECTIONS_MAX: &str = "SELECT CAST(current_setting('max_connections') AS INT) / 2";
/// Whether the user `$1` has settings of its own.
const HAS_SETTINGS: &str = "SELECT EXISTS (SELECT 1 FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole \
     WHERE r.rolname = $1)";
/// Whether the user `$1` may create tables and functions in the schema `$2`.
const MAY_CREATE: &str = "SELECT has_schema_privilege($1, $2, 'CREATE')";

/// The tables of a PostgreSQL database that are memgate's.
pub fn postgres_tables() -> impl Iterator<Item = &'static str> {
    grants::tables()
}

impl Store {
    /// Checks that the store's user may create others and set their passwords.
    ///
    /// # Errors
    /// `MayNotCreateUsers` if it may not; `Unsupported` with SQLite, which has no users.
    pub async fn require_may_create_users(&self) -> Result<(), StoreError> {
        let connected: Connected = sqlx::query_as(CONNECTED).fetch_one(&self.postgres()?.get()).await?;
        connected.require_may_create()
    }

    /// Creates the roles' database users, as far as they are missing, and gives them exactly the rights of this version. The
    /// rights of other users, `PUBLIC` among them, stay as they are.
    ///
    /// # Errors
    /// `MayNotCreateUsers`; `SchemaIsWritable` if they could create functions there; `Unsupported` with SQLite, which has no users.
    pub async fn set_up_role_users(&self, users: &[RoleUser], password: Password) -> Result<(), StoreError> {
        let mut tx = self.postgres()?.get().begin().await?;
        let connected: Connected = sqlx::query_as(CONNECTED).fetch_one(&mut *tx).await?;
        for user in users {
            set_up(&mut tx, &connected, user, password).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends the connections of a role's user, which a new password doesn't. Returns how many go on because the store's user may
    /// not end them.
    ///
    /// # Errors
    /// `Unsupported` with SQLite, which has no users.
    pub async fn end_connections_of(&self, user: &RoleUser) -> Result<u64, StoreError> {
        let pool = self.postgres()?.get();
        sqlx::query(END_CONNECTIONS).bind(&user.name).execute(&pool).await?;
        let left: i64 = sqlx::query_scalar(COUNT_CONNECTIONS).bind(&user.name).fetch_one(&pool).await?;
        Ok(u64::try_from(left).unwrap_or(0))
    }

    fn postgres(&self) -> Result<&RenewablePool<Postgres>, StoreError> {
        match &self.db {
            Db::Postgres(pool) => Ok(pool),
            Db::Sqlite { .. } => Err(StoreError::Unsupported("SQLite has no users")),
        }
    }
}

impl Connected {
    fn require_may_create(&self) -> Result<(), StoreError> {
        if self.may_create { Ok(()) } else { Err(StoreError::MayNotCreateUsers(self.own_name.clone())) }
    }
}

async fn set_up(
    connection: &mut PgConnection,
    connected: &Connected,
    user: &RoleUser,
    password: Password,
) -> Result<(), StoreError> {
    let name = quoted(&user.name);
    let exists: bool = sqlx::query_scalar(EXISTS).bind(&user.name).fetch_one(&mut *connection).await?;
    if !exists || password == Password::Set {
        connected.require_may_create()?;
        let verb = if exists { "ALTER" } else { "CREATE" };
        let connections: i32 = sqlx::query_scalar(CONNECTIONS_MAX).fetch_one(&mut *connection).await?;
        // The server gets what it stores anyway: the password itself would be in its log if it logs statements.
        let verifier = verifier(&user.password);
        run(
            connection,
            format!(
                "{verb} ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT {connections} \
                 PASSWORD '{verifier}'"
            ),
        )
        .await?;
    }
    if connected.may_create {
        reset_settings(connection, user, &connected.database).await?;
    }
    run(connection, format!("GRANT CONNECT ON DATABASE {} TO {name}", quoted(&connected.database))).await?;
    run(connection, format!("GRANT USAGE ON SCHEMA {} TO {name}", quoted(&connected.schema))).await?;
    require_may_not_create(connection, &user.name, &connected.schema).await?;
    for (table, privileges) in grants::of(user.role) {
        let table_exists: bool =
            sqlx::query_scalar(TABLE_EXISTS).bind(table).fetch_one(&mut *connection).await?;
        if !table_exists {
            return Err(StoreError::NoTables(connected.database.clone()));
        }
        // It takes back the rights to single columns too.
        run(connection, format!("REVOKE ALL ON {table} FROM {name}")).await?;
        if !privileges.is_empty() {
            run(connection, format!("GRANT {privileges} ON {table} TO {name}")).await?;
        }
    }
    Ok(())
}

/// Takes back what a user may set for its own later sessions, such as one in which every transaction is read-only.
async fn reset_settings(
    connection: &mut PgConnection,
    user: &RoleUser,
    database: &str,
) -> Result<(), StoreError> {
    let has_settings: bool =
        sqlx::query_scalar(HAS_SETTINGS).bind(&user.name).fetch_one(&mut *connection).await?;
    if has_settings {
        let name = quoted(&user.name);
        run(connection, format!("ALTER ROLE {name} RESET ALL")).await?;
        run(connection, format!("ALTER ROLE {name} IN DATABASE {} RESET ALL", quoted(database))).await?;
    }
    Ok(())
}

/// Up to PostgreSQL 14 every user may create functions in the schema `public`, also one that was upgraded since. The owner of the
/// tables would run them, in a restore for example.
async fn require_may_not_create(
    connection: &mut PgConnection,
    user: &str,
    schema: &str,
) -> Result<(), StoreError> {
    let may_create: bool =
        sqlx::query_scalar(MAY_CREATE).bind(user).bind(schema).fetch_one(&mut *connection).await?;
    if may_create { Err(StoreError::SchemaIsWritable(schema.to_owned())) } else { Ok(()) }
}

/// What PostgreSQL stores of a password.
fn verifier(password: &str) -> String {
    let keys = scram_keys(password);
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    format!(
        "SCRAM-SHA-256${}:{}${}:{}",
        keys.iterations,
        base64(&keys.salt),
        base64(&keys.stored_key),
        base64(&keys.server_key)
    )
}
