//! Users, and sign-up: creates user, cache, instance and first token in one transaction.

mod room;
pub(crate) mod search;
mod state;

use std::fmt;

use crate::account_link::{self, LinkKind, take_link};
use crate::audit::note;
use crate::cache::insert_cache;
use crate::db::{read, write};
use crate::host_capacity::{SIZES, SizeCount, require_memory};
use crate::plan::{self, Plan};
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_row, read_rows, readable};
use crate::tokens::{NewToken, insert_token};
use crate::{Cache, CacheName, DesiredState, Store, StoreError, Timestamp, id, now};

#[cfg(test)]
pub(crate) use room::COUNT;
pub use room::SignUpRoom;
pub use search::{UserFigures, UserFilter};
pub use state::UserState;

/// A user, without the password hash.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct User {
    /// 24 letters and digits.
    pub id: String,
    /// Lower case.
    pub email: String,
    /// The name of the plan that new caches get.
    pub plan: String,
    /// Whether the user may open the admin pages.
    pub is_admin: bool,
    /// Whether the user is active or suspended.
    pub state: UserState,
    /// When the account was created.
    pub created_at: Timestamp,
}

/// A user to create.
pub struct NewUser<'a> {
    /// Validated by the caller; stored in lower case.
    pub email: &'a str,
    /// Argon2id in PHC form; without one the account can't sign in to the web UI.
    pub password_hash: Option<&'a str>,
    /// The name of the plan that the first cache and later ones get.
    pub plan: &'a str,
    /// Whether the user may open the admin pages.
    pub is_admin: bool,
}

impl fmt::Debug for NewUser<'_> {
    /// Without the hash of the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("email", &self.email)
            .field("plan", &self.plan)
            .field("is_admin", &self.is_admin)
            .finish_non_exhaustive()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    email: String,
    plan: String,
    is_admin: i64,
    state: String,
    created_at: Timestamp,
}

impl TryFrom<Row> for User {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            email: row.email,
            plan: row.plan,
            is_admin: row.is_admin != 0,
            state: UserState::parse(&row.state)?,
            created_at: row.created_at,
        })
    }
}

impl Store {
    /// Creates a user with a cache named `default`, its instance and its first token.
    ///
    /// # Errors
    /// `AlreadyExists("e-mail address")`, `NotFound("plan")`.
    pub async fn sign_up(&self, new: &NewUser<'_>, token: &NewToken) -> Result<User, StoreError> {
        self.sign_up_within(new, token, &SignUpRoom::default()).await
    }

    /// Creates a user as [`Store::sign_up`] does, if there is room.
    ///
    /// # Errors
    /// `LimitReached("account")`, `LimitReached("region")`, `LimitReached("memory")`, `AlreadyExists("e-mail address")`,
    /// `NotFound("plan")`, `NotFound("link")`.
    pub async fn sign_up_within(
        &self,
        new: &NewUser<'_>,
        token: &NewToken,
        room: &SignUpRoom<'_>,
    ) -> Result<User, StoreError> {
        let user = User {
            id: id::random(),
            email: new.email.to_lowercase(),
            plan: new.plan.to_owned(),
            is_admin: new.is_admin,
            state: UserState::Active,
            created_at: now(),
        };
        write!(self, tx, revision => {
            if let Some(link) = room.link_id {
                let (_, email) = take_link!(tx, link, LinkKind::SignUp);
                if email != user.email {
                    return Err(StoreError::NotFound("link"));
                }
                sqlx::query(account_link::DELETE_TO).bind(&email).execute(&mut *tx).await?;
            }
            room.check(sqlx::query_as(room::COUNT).bind(room.region).fetch_one(&mut *tx).await?)?;
            let plan: Plan = sqlx::query_as(plan::BY_NAME)
                .bind(&user.plan).fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound("plan"))?;
            if room.memory_of.is_some() {
                require_memory!(&mut *tx, &plan);
            }
            sqlx::query("INSERT INTO users (id, email, password_hash, plan, is_admin, state, created_at, revision, region) \
                         VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8)")
                .bind(&user.id).bind(&user.email).bind(new.password_hash).bind(&user.plan)
                .bind(i64::from(user.is_admin)).bind(user.created_at).bind(revision).bind(room.region)
                .execute(&mut *tx).await.map_err(|e| StoreError::unique(e, "e-mail address"))?;
            let cache = Cache::new(&user.id, &CacheName::default(), &plan.name);
            insert_cache!(tx, revision, &cache, &plan, DesiredState::Running);
            insert_token!(tx, &cache.id, token, revision)?;
            note!(self, tx, "user.create", format!("user {}", user.id), format!("{}, plan {}, cache {} ({}), first token {}", user.email, user.plan, cache.name, cache.id, token.token.id()));
        });
        Ok(user)
    }

    /// Checks that there is room for another user. Returns how many there are, without deleted ones.
    ///
    /// # Errors
    /// `LimitReached("account")`, `LimitReached("region")`, `LimitReached("memory")`.
    pub async fn check_room(&self, room: &SignUpRoom<'_>) -> Result<usize, StoreError> {
        let users = room.check(
            read!(self, pool => sqlx::query_as(room::COUNT).bind(room.region).fetch_one(pool).await)?,
        )?;
        if let Some(plan) = room.memory_of {
            self.check_memory(plan).await?;
        }
        Ok(users)
    }

    /// Checks that the machine has memory for a cache of a plan. One that doesn't exist needs none.
    async fn check_memory(&self, plan: &str) -> Result<(), StoreError> {
        let (capacity, plan) = (self.host_capacity().await?, self.plan(plan).await?);
        let Some((capacity, plan)) = capacity.zip(plan) else { return Ok(()) };
        let sizes: Vec<SizeCount> =
            read!(self, pool => sqlx::query_as(SIZES).bind(QUERIED_MAX).fetch_all(pool).await)?;
        capacity.require_room(&sizes, &plan)
    }

    /// All users that aren't deleted, ordered by e-mail address, the first 20,000 at most. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let sql = "SELECT id, email, plan, is_admin, state, created_at FROM users WHERE deleted_at IS NULL ORDER BY email LIMIT $1";
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(limit))?;
        Ok(readable("users", rows.into_iter().map(|row| User::try_from(row?))))
    }

    /// A user by e-mail address, in any letter case.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        let sql = "SELECT id, email, plan, is_admin, state, created_at FROM users WHERE email = $1 AND deleted_at IS NULL";
        self.read_user(sql, &email.to_lowercase()).await
    }

    /// A user by id.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn user(&self, id: &str) -> Result<Option<User>, StoreError> {
        let sql = "SELECT id, email, plan, is_admin, state, created_at FROM users WHERE id = $1 AND deleted_at IS NULL";
        self.read_user(sql, id).await
    }

    async fn read_user(&self, sql: &'static str, key: &str) -> Result<Option<User>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(key))?;
        row.map(|row| User::try_from(row?)).transpose()
    }

    /// A user's password hash in PHC form; `None` if the user can't sign in to the web UI.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn password_hash(&self, user_id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT password_hash FROM users WHERE id = $1";
        let hash: Option<Option<String>> =
            read!(self, pool => sqlx::query_scalar(sql).bind(user_id).fetch_optional(pool).await)?;
        Ok(hash.flatten())
    }
}
