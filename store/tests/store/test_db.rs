//! A database for one test, with direct access to its tables.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use store::{
    Database, NewSession, NewToken, NewUser, NotificationKinds, Store, StoreError, StoreOptions, TokenKey,
    User, WebhookFields,
};

use crate::postgres_server;

/// Time limit for anything that a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// An empty database for one test.
pub(crate) struct TestDb {
    pub(crate) folder: tempfile::TempDir,
    postgres: Option<String>,
}

/// A transaction of another program, which keeps others from writing.
pub(crate) enum Lock {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Lock {
    pub(crate) async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

/// Runs a body with a new connection to the database, of either kind.
macro_rules! connected {
    ($db:expr, $connection:ident => $body:expr) => {
        match &$db.postgres {
            Some(url) => {
                let mut $connection = sqlx::PgConnection::connect(url).await.unwrap();
                let value = $body;
                $connection.close().await.unwrap();
                value
            }
            None => {
                let options = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename($db.folder.path().join("memgate.db"))
                    .foreign_keys(false);
                let mut $connection = options.connect().await.unwrap();
                let value = $body;
                $connection.close().await.unwrap();
                value
            }
        }
    };
}

impl TestDb {
    pub(crate) fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), postgres: None }
    }

    pub(crate) async fn postgres() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        // Starting the server blocks for half a second.
        let server = tokio::task::spawn_blocking(|| postgres_server::url("postgres")).await.unwrap();
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        let sql = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { folder: tempfile::tempdir().unwrap(), postgres: Some(postgres_server::url(&name)) }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    pub(crate) fn database(&self) -> Database {
        match &self.postgres {
            Some(url) => Database::Postgres(url.clone()),
            None => Database::Sqlite(self.folder.path().join("memgate.db")),
        }
    }

    /// Opens the store with a new pool, as another process would.
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.database()).await.unwrap()
    }

    /// Runs SQL without the store.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        connected!(self, connection => sqlx::raw_sql(sql).execute(&mut connection).await.map(drop))
    }

    /// Locks the database as another program does that writes.
    pub(crate) async fn lock(&self) -> Lock {
        match &self.postgres {
            Some(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                let sql = "BEGIN; UPDATE revision SET value = value";
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                Lock::Postgres(connection)
            }
            None => {
                let options = sqlx::sqlite::SqliteConnectOptions::new();
                let options = options.filename(self.folder.path().join("memgate.db"));
                let mut connection = options.connect().await.unwrap();
                sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
                Lock::Sqlite(connection)
            }
        }
    }

    /// Opens the store as a role does.
    pub(crate) async fn open_existing(&self) -> Result<Store, StoreError> {
        Store::open_existing(&self.database(), &StoreOptions::default()).await
    }

    /// Reads one number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        connected!(self, connection => sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap())
    }

    /// Reads pairs of a text and a number.
    pub(crate) async fn pairs(&self, sql: &str) -> Vec<(String, i64)> {
        let sql = AssertSqlSafe(sql.to_owned());
        connected!(self, connection => sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap())
    }
}

/// A new token key.
/// A webhook that gets all notifications.
pub(crate) const WEBHOOK: WebhookFields<'static> = WebhookFields {
    url: "https://a.example/",
    host: "a.example",
    description: "",
    kinds: NotificationKinds::ALL,
};

pub(crate) fn token_key() -> TokenKey {
    let folder = tempfile::tempdir().unwrap();
    TokenKey::load_or_create(&folder.path().join("token.key")).unwrap()
}

/// A new user with the default plan.
pub(crate) fn new_user(email: &str) -> NewUser<'_> {
    NewUser { email, password_hash: Some("$argon2id$..."), plan: "default", is_admin: false }
}

/// A new session of a user.
pub(crate) fn new_session<'a>(id_hash: &'a str, user_id: &'a str) -> NewSession<'a> {
    NewSession { id_hash, user_id, form_token: "form", source: "192.0.2.7", user_agent: "" }
}

/// A token of a new account.
pub(crate) fn new_token() -> NewToken {
    NewToken::generate(&token_key(), "first")
}

/// Signs a user up, with a token named `first`.
pub(crate) async fn sign_up(store: &Store, email: &str) -> (User, NewToken) {
    let token = NewToken::generate(&token_key(), "first");
    let user = store.sign_up(&new_user(email), &token).await.unwrap();
    (user, token)
}

/// The id of a user's oldest cache.
pub(crate) async fn first_cache(store: &Store, user: &User) -> String {
    store.first_cache_of(&user.id).await.unwrap().unwrap().id
}
