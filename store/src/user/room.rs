//! Room for another user: how many there may be in all, and from one region.

use crate::StoreError;

/// Whole : part. A region may have that part of all users while fewer than half are free.
const REGION_PART: usize = 4;

/// What a sign-up needs room in.
#[derive(Debug, Clone, Copy, Default)]
pub struct SignUpRoom<'a> {
    /// Users that there may be; `None` for any number.
    pub users_max: Option<usize>,
    /// Where the user signs up from: kept with the user. `None` if it doesn't matter.
    pub region: Option<&'a str>,
    /// The plan of a cache that the machine has to have memory for. `None` if the cache may wait for that.
    pub memory_of: Option<&'a str>,
    /// The id of a link that makes the account, which is used up.
    pub link_id: Option<&'a str>,
}

/// How many users there are, without deleted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct UserCounts {
    users: i64,
    of_region: i64,
}

/// [`UserCounts`]; `$1` is the region.
pub(crate) const COUNT: &str = "SELECT COUNT(*) AS users, \
     CAST(COALESCE(SUM(CASE WHEN region = $1 THEN 1 ELSE 0 END), 0) AS BIGINT) AS of_region \
     FROM users WHERE deleted_at IS NULL";

impl SignUpRoom<'_> {
    /// Checks that there is room for another user. Returns how many there are.
    ///
    /// # Errors
    /// `LimitReached("account")`; `LimitReached("region")` if others may still sign up.
    pub(crate) fn check(&self, counts: UserCounts) -> Result<usize, StoreError> {
        let [users, of_region] = [counts.users, counts.of_region].map(|n| usize::try_from(n).unwrap_or(0));
        let Some(max) = self.users_max else { return Ok(users) };
        let free = max.saturating_sub(users);
        if free == 0 {
            return Err(StoreError::LimitReached("account"));
        }
        let is_short = free.saturating_mul(2) < max;
        if self.region.is_some() && is_short && of_region >= (max / REGION_PART).max(1) {
            return Err(StoreError::LimitReached("region"));
        }
        Ok(users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-31, W-8.
    #[test]
    fn region_has_a_quarter_while_fewer_than_half_are_free() {
        let room = SignUpRoom { users_max: Some(1000), region: Some("203.0.0.0"), ..SignUpRoom::default() };
        let check = |room: SignUpRoom<'_>, users, of_region| {
            room.check(UserCounts { users, of_region }).map_err(|error| error.to_string())
        };
        assert_eq!(check(room, 500, 500), Ok(500), "half are free");
        assert_eq!(check(room, 501, 249), Ok(501));
        assert!(check(room, 501, 250).unwrap_err().starts_with("region"));
        assert_eq!(check(SignUpRoom { region: None, ..room }, 999, 999), Ok(999));
        assert!(check(room, 1000, 0).unwrap_err().starts_with("account"));
        assert_eq!(check(SignUpRoom { users_max: None, ..room }, 5000, 5000), Ok(5000));
        assert_eq!(check(SignUpRoom { users_max: Some(1), ..room }, 0, 0), Ok(0));
    }
}
