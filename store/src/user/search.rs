//! Users in lists for administrators, a page at a time, and how many there are.

use super::{Row, UserState};
use crate::db::read;
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, User};

/// Which users to list. Empty texts and `None` match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserFilter {
    /// A part of the e-mail address, in any letter case.
    pub email: String,
    /// The name of the plan.
    pub plan: String,
    /// The state.
    pub state: Option<UserState>,
    /// Whether the user is an administrator.
    pub is_admin: Option<bool>,
}

/// How many users there are, without deleted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct UserFigures {
    /// All of them.
    pub users: i64,
    /// Those that are suspended.
    pub suspended: i64,
    /// Administrators.
    pub admins: i64,
}

/// Users by address, behind the address `$1`, at most `$6`.
pub(crate) const PAGE: &str = "SELECT id, email, plan, is_admin, state, created_at FROM users \
     WHERE deleted_at IS NULL AND email > $1 AND email LIKE $2 ESCAPE '\\' AND ($3 = '' OR plan = $3) \
     AND ($4 = '' OR state = $4) AND ($5 < 0 OR is_admin = $5) ORDER BY email LIMIT $6";
pub(crate) const FIGURES: &str = "SELECT COUNT(*) AS users, \
     CAST(COALESCE(SUM(CASE WHEN state = 'suspended' THEN 1 ELSE 0 END), 0) AS BIGINT) AS suspended, \
     CAST(COALESCE(SUM(CASE WHEN is_admin <> 0 THEN 1 ELSE 0 END), 0) AS BIGINT) AS admins \
     FROM users WHERE deleted_at IS NULL";

impl Store {
    /// Up to `limit` users that match, by e-mail address, behind the address `after`. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn find_users(
        &self,
        filter: &UserFilter,
        after: &str,
        limit: i64,
    ) -> Result<Vec<User>, StoreError> {
        let part = contains(&filter.email.to_lowercase());
        let state = filter.state.map_or("", UserState::as_str);
        let is_admin = filter.is_admin.map_or(-1, i64::from);
        let rows: Vec<Result<Row, StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(PAGE)
                .bind(after)
                .bind(&part)
                .bind(&filter.plan)
                .bind(state)
                .bind(is_admin)
                .bind(limit)
        )?;
        Ok(readable("users", rows.into_iter().map(|row| User::try_from(row?))))
    }

    /// How many users there are.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn user_figures(&self) -> Result<UserFigures, StoreError> {
        Ok(read!(self, pool => sqlx::query_as(FIGURES).fetch_one(pool).await)?)
    }
}

/// The pattern of LIKE for texts that contain `part`, whose characters all stand for themselves.
fn contains(part: &str) -> String {
    let mut pattern = String::from("%");
    for character in part.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_themselves() {
        assert_eq!(contains(""), "%%");
        assert_eq!(contains("a_b%c\\"), "%a\\_b\\%c\\\\%");
    }
}
