//! The audit log: who did what, when, to what. Append-only and chained by hashes; never a secret in it.

use sha2::{Digest as _, Sha256};

use crate::db::{read, write};
use crate::keys::hex;
use crate::{Millis, Store, StoreError, now};

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct AuditEntry {
    /// Counted from 1, without gaps.
    pub seq: i64,
    /// When.
    pub at: Millis,
    /// Who: `operator`, or `user` and an id.
    pub actor: String,
    /// What: `token.create`.
    pub action: String,
    /// To what: `token` or `user`, and an id.
    pub subject: String,
    /// What else there is to know.
    pub detail: String,
    /// SHA-256 of all this and of the hash before it, hexadecimal.
    pub hash: String,
}

/// What doesn't fit in the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry is missing: `expected` is followed by something else.
    #[error(
        "the audit log has a gap at entry {expected}: restore the database from a backup and look for who removed it"
    )]
    Gap {
        /// The number that should have come.
        expected: i64,
    },
    /// An entry isn't what was written.
    #[error(
        "entry {seq} of the audit log was changed: restore the database from a backup and look for who changed it"
    )]
    Changed {
        /// Its number.
        seq: i64,
    },
}

/// The chain as far as it has been followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditChain {
    /// Entries so far.
    pub entries: i64,
    /// The last one's hash; empty before the first. Kept elsewhere it shows later that none was taken away.
    pub head: String,
}

impl AuditChain {
    /// Takes the next entry, if it is the next.
    pub fn follow(&mut self, entry: &AuditEntry) -> Result<(), AuditError> {
        let expected = self.entries + 1;
        if entry.seq != expected {
            return Err(AuditError::Gap { expected });
        }
        if entry.hash != entry.chained(&self.head) {
            return Err(AuditError::Changed { seq: entry.seq });
        }
        self.entries = entry.seq;
        self.head.clone_from(&entry.hash);
        Ok(())
    }
}

impl AuditEntry {
    pub(crate) fn next(
        last: Option<(i64, String)>,
        actor: &str,
        action: &str,
        subject: String,
        detail: String,
    ) -> Self {
        let (seq, before) = last.unwrap_or_default();
        let (actor, action) = (actor.to_owned(), action.to_owned());
        let mut entry = Self { seq: seq + 1, at: now(), actor, action, subject, detail, hash: String::new() };
        entry.hash = entry.chained(&before);
        entry
    }

    /// Every field with its length before it: no two entries read the same.
    fn chained(&self, before: &str) -> String {
        let (seq, at) = (self.seq.to_string(), self.at.to_string());
        let mut hash = Sha256::new();
        for field in [before, &seq, &at, &self.actor, &self.action, &self.subject, &self.detail] {
            hash.update(field.len().to_be_bytes());
            hash.update(field.as_bytes());
        }
        hex(&hash.finalize())
    }
}

pub(crate) const LAST: &str = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
pub(crate) const INSERT: &str =
    "INSERT INTO audit (seq, at, actor, action, subject, detail, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// Writes an entry in a transaction that has taken a revision: those come one after the other.
macro_rules! note {
    ($store:expr, $tx:expr, $action:expr, $subject:expr, $detail:expr) => {{
        let last: Option<(i64, String)> =
            sqlx::query_as($crate::audit::LAST).fetch_optional(&mut *$tx).await?;
        let (subject, detail) = ($subject.into(), $detail.into());
        let entry = $crate::AuditEntry::next(last, &$store.actor, $action, subject, detail);
        sqlx::query($crate::audit::INSERT)
            .bind(entry.seq)
            .bind(entry.at)
            .bind(entry.actor)
            .bind(entry.action)
            .bind(entry.subject)
            .bind(entry.detail)
            .bind(entry.hash)
            .execute(&mut *$tx)
            .await?;
    }};
}
pub(crate) use note;

impl Store {
    /// The same store, in somebody's name: what is done through it is noted as theirs.
    #[must_use]
    pub fn acting_as(&self, actor: &str) -> Self {
        Self { db: self.db.clone(), actor: actor.into() }
    }

    /// Notes what changes nothing here: that somebody has signed in.
    pub async fn note(&self, action: &str, subject: &str, detail: &str) -> Result<(), StoreError> {
        write!(self, tx, _revision => note!(self, tx, action, subject, detail));
        Ok(())
    }

    /// Up to `limit` entries behind the one with this number, in order.
    pub async fn audit_after(&self, seq: i64, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = "SELECT seq, at, actor, action, subject, detail, hash FROM audit WHERE seq > $1 \
                   ORDER BY seq LIMIT $2";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(seq).bind(limit).fetch_all(pool).await)?)
    }

    /// How many entries there are, by the last one's number.
    pub async fn audit_length(&self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(MAX(seq), 0) FROM audit";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }
}
