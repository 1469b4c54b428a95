//! Client certificates, each issued for a token and identified by its fingerprint alone: the issuer is not checked.
//! Private keys are not stored.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::audit::note;
use crate::db::{read, write};
use crate::keys::{hex, unhex};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, Timestamp, TokenId, now};

/// Unexpired certificates that a token may have.
const PER_TOKEN_MAX: i64 = 16;
/// Certificates that are listed: more than a token can have had in a day.
const LISTED_MAX: i64 = 1000;
/// Certificates that are listed of a cache.
const EXPIRING_LISTED_MAX: i64 = 50;
/// How long an ended one is kept, so that every proxy learns from its row that it was revoked.
const ENDED_KEPT: Duration = Duration::from_hours(24);

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid fingerprint: write 64 hexadecimal digits")]
pub struct ParseFingerprintError;

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, ParseFingerprintError> {
        unhex(text.as_bytes()).map(Self).ok_or(ParseFingerprintError)
    }
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct CertificateRow {
    /// SHA-256 of its DER, hexadecimal.
    pub fingerprint: String,
    /// The public id of the token that it stands for.
    #[sqlx(rename = "token_id")]
    pub token: String,
    /// What its owner calls it; may be empty.
    pub name: String,
    /// When it was issued.
    pub created_at: Timestamp,
    /// It is denied from this time on.
    pub not_after: Timestamp,
}

impl CertificateRow {
    /// Whether it is not expired at `now`. Its token may still be inactive.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        now < self.not_after
    }
}

/// Of the active tokens at `$2` of the cache `$1`: certificates that expire after `$2`, up to `$3`. The first `$4`.
pub(crate) const EXPIRING: &str = "SELECT x.fingerprint, x.token_id, x.name, x.created_at, x.not_after FROM tokens t \
     JOIN certificates x ON x.token_id = t.id WHERE t.cache_id = $1 AND t.revoked_at IS NULL \
     AND COALESCE(t.expires_at, 9223372036854775807) > $2 AND x.not_after > $2 AND x.not_after <= $3 \
     ORDER BY x.not_after, x.fingerprint LIMIT $4";

impl Store {
    /// Adds a certificate that was issued for a token, with a name that may be empty. Show it only after this has returned.
    ///
    /// # Errors
    /// `NotFound("active token")`, `LimitReached("certificate")`, `AlreadyExists("certificate")`.
    pub async fn add_certificate(
        &self,
        token: &TokenId,
        fingerprint: Fingerprint,
        not_after: Timestamp,
        name: &str,
    ) -> Result<(), StoreError> {
        let active = "SELECT COUNT(*) FROM tokens WHERE id = $1 AND revoked_at IS NULL \
                    AND (expires_at IS NULL OR expires_at > $2)";
        let prune = "DELETE FROM certificates WHERE token_id = $1 AND not_after <= $2";
        let count = "SELECT COUNT(*) FROM certificates WHERE token_id = $1 AND not_after > $2";
        let insert = "INSERT INTO certificates (fingerprint, token_id, created_at, not_after, revision, name) \
                      VALUES ($1, $2, $3, $4, $5, $6)";
        let (id, now) = (token.as_str(), now());
        write!(self, tx, revision => {
            let active: i64 = sqlx::query_scalar(active).bind(id).bind(now).fetch_one(&mut *tx).await?;
            if active == 0 {
                return Err(StoreError::NotFound("active token"));
            }
            sqlx::query(prune).bind(id).bind(now.saturating_sub(ENDED_KEPT)).execute(&mut *tx).await?;
            let held: i64 = sqlx::query_scalar(count).bind(id).bind(now).fetch_one(&mut *tx).await?;
            if held >= PER_TOKEN_MAX {
                return Err(StoreError::LimitReached("certificate"));
            }
            sqlx::query(insert).bind(fingerprint.to_string()).bind(id).bind(now).bind(not_after).bind(revision)
                .bind(name).execute(&mut *tx).await.map_err(|e| StoreError::unique(e, "certificate"))?;
            note!(self, tx, "certificate.issue", format!("token {token}"), format!("fingerprint {fingerprint}, until {not_after}"));
        });
        Ok(())
    }

    /// Ends a token's certificate now. Proxies refuse it and close the connections that it has authenticated; the token's
    /// change is applied ([`Store::propagation`]) when they have.
    ///
    /// # Errors
    /// `NotFound("certificate")` if the token has no such certificate, or it has ended.
    pub async fn revoke_certificate(
        &self,
        token: &TokenId,
        fingerprint: Fingerprint,
    ) -> Result<(), StoreError> {
        let end = "UPDATE certificates SET not_after = $1, revision = $2 \
                   WHERE fingerprint = $3 AND token_id = $4 AND not_after > $1";
        let touch = "UPDATE tokens SET revision = $1 WHERE id = $2";
        write!(self, tx, revision => {
            let ended = sqlx::query(end).bind(now()).bind(revision).bind(fingerprint.to_string()).bind(token.as_str())
                .execute(&mut *tx).await?.rows_affected();
            if ended == 0 {
                return Err(StoreError::NotFound("certificate"));
            }
            sqlx::query(touch).bind(revision).bind(token.as_str()).execute(&mut *tx).await?;
            note!(self, tx, "certificate.revoke", format!("token {token}"), format!("fingerprint {fingerprint}"));
        });
        Ok(())
    }

    /// A token's certificates, oldest first, those that ended not long ago too.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn certificates_of(&self, token: &TokenId) -> Result<Vec<CertificateRow>, StoreError> {
        let sql = "SELECT fingerprint, token_id, name, created_at, not_after FROM certificates \
                   WHERE token_id = $1 ORDER BY created_at, fingerprint LIMIT $2";
        read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(token.as_str()).bind(LISTED_MAX))?
            .into_iter()
            .collect()
    }

    /// Certificates of a cache's active tokens that expire until a time, the next one first, at most 50.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn expiring_certificates(
        &self,
        cache_id: &str,
        until: Timestamp,
    ) -> Result<Vec<CertificateRow>, StoreError> {
        let now = now();
        read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(EXPIRING).bind(cache_id).bind(now).bind(until).bind(EXPIRING_LISTED_MAX)
        )?
        .into_iter()
        .collect()
    }

    /// The token of the certificate with that fingerprint, and when the certificate expires.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn token_of_certificate(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<(TokenId, Timestamp)>, StoreError> {
        let sql = "SELECT token_id, not_after FROM certificates WHERE fingerprint = $1";
        let row: Option<(String, Timestamp)> = read!(self, pool => sqlx::query_as(sql).bind(fingerprint.to_string()).fetch_optional(pool).await)?;
        let Some((token, not_after)) = row else { return Ok(None) };
        let token = TokenId::parse(&token).ok_or(StoreError::Corrupt("certificate's token"))?;
        Ok(Some((token, not_after)))
    }
}
