//! Links for one use, which people get by mail. A link's address ends with
//! [`TokenKey::link_code`](crate::TokenKey::link_code), which the store doesn't hold.

use crate::db::write_unversioned;
use crate::rows::{SHORT_ROW_BYTES_MAX, read_row};
use crate::{Store, StoreError, Timestamp, now};

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// Sets a new password.
    ResetPassword,
    /// Confirms a new e-mail address.
    ChangeEmail,
    /// Makes an account.
    SignUp,
}

/// A link that isn't used up and hasn't expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountLink {
    /// 24 letters and digits.
    pub id: String,
    /// What it does.
    pub kind: LinkKind,
    /// The account, if there is one already.
    pub user_id: Option<String>,
    /// The address that it was sent to.
    pub email: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    kind: String,
    user_id: Option<String>,
    email: String,
    expires_at: Timestamp,
}

pub(crate) const BY_ID: &str =
    "SELECT id, kind, user_id, email, expires_at FROM account_links WHERE id = $1 AND expires_at > $2";
pub(crate) const INSERT: &str = "INSERT INTO account_links (id, kind, user_id, email, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";
/// Uses a link up: of two who try, one gets the row.
pub(crate) const TAKE: &str = "DELETE FROM account_links WHERE id = $1 AND kind = $2 AND expires_at > $3 \
     RETURNING user_id, email";
pub(crate) const DELETE_TO: &str = "DELETE FROM account_links WHERE email = $1";
pub(crate) const DELETE_EXPIRED: &str = "DELETE FROM account_links WHERE expires_at <= $1";

/// Inserts a link in a transaction; returns its id.
macro_rules! insert_link {
    ($tx:expr, $kind:expr, $user_id:expr, $email:expr, $age:expr) => {{
        let (id, at) = ($crate::id::random(), $crate::now());
        let user_id: Option<&str> = $user_id;
        sqlx::query($crate::account_link::INSERT)
            .bind(&id)
            .bind($crate::LinkKind::as_str($kind))
            .bind(user_id)
            .bind($email)
            .bind(at)
            .bind(at.saturating_add($age))
            .execute(&mut *$tx)
            .await?;
        id
    }};
}

/// Uses a link up in a transaction.
macro_rules! take_link {
    ($tx:expr, $id:expr, $kind:expr) => {{
        let taken: Option<(Option<String>, String)> = sqlx::query_as($crate::account_link::TAKE)
            .bind($id)
            .bind($crate::LinkKind::as_str($kind))
            .bind($crate::now())
            .fetch_optional(&mut *$tx)
            .await?;
        taken.ok_or($crate::StoreError::NotFound("link"))?
    }};
}
pub(crate) use {insert_link, take_link};

impl LinkKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ResetPassword => "reset_password",
            Self::ChangeEmail => "change_email",
            Self::SignUp => "sign_up",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        [Self::ResetPassword, Self::ChangeEmail, Self::SignUp]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(StoreError::Corrupt("kind of link"))
    }
}

impl Store {
    /// A link that is valid now.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn account_link(&self, id: &str) -> Result<Option<AccountLink>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, SHORT_ROW_BYTES_MAX, sqlx::query(BY_ID).bind(id).bind(now()))?;
        row.map(|row| AccountLink::try_from(row?)).transpose()
    }

    /// Deletes links that have expired; returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn delete_expired_links(&self) -> Result<u64, StoreError> {
        Ok(write_unversioned!(self, tx => sqlx::query(DELETE_EXPIRED).bind(now())
            .execute(&mut *tx).await?.rows_affected()))
    }
}

impl TryFrom<Row> for AccountLink {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            kind: LinkKind::parse(&row.kind)?,
            user_id: row.user_id,
            email: row.email,
            expires_at: row.expires_at,
        })
    }
}
