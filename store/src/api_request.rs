//! Creations through the JSON API that name an idempotency key: one that is sent again within a day isn't done again. Only
//! keyed hashes of the requests are kept, and the id of what was created, never a secret.

use std::fmt;
use std::time::Duration;

use crate::db::write_unversioned;
use crate::keys::hex;
use crate::{Store, StoreError, Timestamp, TokenKey, now};

/// How long a request is remembered.
const KEPT: Duration = Duration::from_hours(24);
/// A request that hasn't ended after this time was broken off, and may be done again.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);
/// Requests of a user that are remembered: the newest.
const PER_USER_MAX: i64 = 1000;
/// Requests that are forgotten in one transaction.
const FORGOTTEN_MAX: i64 = 1000;

/// A creation with an idempotency key.
#[derive(Clone)]
pub struct ApiRequest {
    user_id: String,
    key_hash: String,
    fingerprint: String,
}

/// Whether a creation may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiRequestState {
    /// It may: it is the first of its key.
    New,
    /// The same one is being done.
    InProgress,
    /// It was done; the id of what it created.
    Done(String),
    /// Another request has used the key.
    OtherRequest,
}

impl ApiRequest {
    /// The request of a user with this idempotency key. `parts` are what has to be the same when it is sent again.
    #[must_use]
    pub fn new(token_key: &TokenKey, user_id: &str, key: &str, parts: &[&str]) -> Self {
        let key_hash = hex(&token_key.hash(&["idempotency-key", user_id, key]));
        let fingerprint = hex(&token_key.hash(&[&["request"], parts].concat()));
        Self { user_id: user_id.to_owned(), key_hash, fingerprint }
    }
}

impl fmt::Debug for ApiRequest {
    /// Without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiRequest").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// The request `$2` of the user `$1`.
pub(crate) const FIND: &str =
    "SELECT fingerprint, created_at, resource FROM api_requests WHERE user_id = $1 AND key_hash = $2";
const INSERT: &str = "INSERT INTO api_requests (user_id, key_hash, fingerprint, created_at) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (user_id, key_hash) DO NOTHING";
const TAKE_OVER: &str = "UPDATE api_requests SET created_at = $1 WHERE user_id = $2 AND key_hash = $3 \
     AND created_at = $4 AND resource IS NULL";
const DELETE: &str = "DELETE FROM api_requests WHERE user_id = $1 AND key_hash = $2";
/// All but the newest `$2` of the user `$1`.
pub(crate) const DELETE_SURPLUS: &str = "DELETE FROM api_requests WHERE user_id = $1 AND key_hash IN \
     (SELECT key_hash FROM api_requests WHERE user_id = $1 ORDER BY created_at DESC, key_hash LIMIT 1000 OFFSET $2)";
const FINISH: &str = "UPDATE api_requests SET resource = $1 WHERE user_id = $2 AND key_hash = $3";
/// The oldest `$2` before `$1`.
pub(crate) const DELETE_OLD: &str = "DELETE FROM api_requests WHERE (user_id, key_hash) IN \
     (SELECT user_id, key_hash FROM api_requests WHERE created_at < $1 ORDER BY created_at LIMIT $2)";
/// Forgets all of the user `$1`.
pub(crate) const DELETE_ALL: &str = "DELETE FROM api_requests WHERE user_id = $1";

impl Store {
    /// Begins a creation. If it is new, end it with [`Store::finish_api_request`] or [`Store::forget_api_request`].
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn begin_api_request(&self, request: &ApiRequest) -> Result<ApiRequestState, StoreError> {
        let ApiRequest { user_id, key_hash, fingerprint } = request;
        let at = now();
        Ok(write_unversioned!(self, tx => {
            let found: Option<(String, Timestamp, Option<String>)> =
                sqlx::query_as(FIND).bind(user_id).bind(key_hash).fetch_optional(&mut *tx).await?;
            let found = match found {
                Some((_, created_at, _)) if at.since(created_at) >= KEPT => {
                    sqlx::query(DELETE).bind(user_id).bind(key_hash).execute(&mut *tx).await?;
                    None
                }
                found => found,
            };
            match found {
                Some((other, ..)) if other != *fingerprint => ApiRequestState::OtherRequest,
                Some((_, _, Some(resource))) => ApiRequestState::Done(resource),
                Some((_, created_at, None)) if at.since(created_at) >= ABANDONED_AFTER => {
                    let taken = sqlx::query(TAKE_OVER).bind(at).bind(user_id).bind(key_hash).bind(created_at)
                        .execute(&mut *tx).await?.rows_affected();
                    if taken > 0 { ApiRequestState::New } else { ApiRequestState::InProgress }
                }
                Some((_, _, None)) => ApiRequestState::InProgress,
                None => {
                    let inserted = sqlx::query(INSERT).bind(user_id).bind(key_hash).bind(fingerprint).bind(at)
                        .execute(&mut *tx).await.map_err(|e| StoreError::reference(e, "user"))?.rows_affected();
                    sqlx::query(DELETE_SURPLUS).bind(user_id).bind(PER_USER_MAX).execute(&mut *tx).await?;
                    if inserted > 0 { ApiRequestState::New } else { ApiRequestState::InProgress }
                }
            }
        }))
    }

    /// Records what a creation has created.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn finish_api_request(&self, request: &ApiRequest, resource: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(FINISH).bind(resource).bind(&request.user_id).bind(&request.key_hash)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Forgets a creation that was refused: it may be sent again.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_api_request(&self, request: &ApiRequest) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(DELETE).bind(&request.user_id).bind(&request.key_hash).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Forgets creations of more than a day ago, at most 1,000. Returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn prune_api_requests(&self) -> Result<u64, StoreError> {
        let before = now().saturating_sub(KEPT);
        Ok(write_unversioned!(self, tx => sqlx::query(DELETE_OLD).bind(before).bind(FORGOTTEN_MAX)
            .execute(&mut *tx).await?.rows_affected()))
    }
}
