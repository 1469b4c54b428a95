//! Mail that waits to be sent, and what became of it. Several processes may send: each claims a mail first, for a while.
//!
//! Its text isn't here: the process that sends it makes it, since it may hold the secret of a link.

mod kind;

use std::time::Duration;

use self::kind::MailGroup;
use crate::db::{read, write_unversioned};
use crate::rows::{SHORT_ROW_BYTES_MAX, decode};
use crate::{Store, StoreError, Timestamp, now};

pub use kind::MailKind;

/// Mails that wait: when there are so many, no other is accepted.
const QUEUE_MAX: i64 = 1_000;
/// How long rows are kept after the mail was made.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);
/// Characters that are kept of an error.
const ERROR_MAX: usize = 200;
const HOUR: Duration = Duration::from_hours(1);

/// How many mails there may be.
#[derive(Debug, Clone, Copy)]
pub struct MailLimits {
    /// Of a kind, to one recipient in an hour.
    pub to_recipient_per_hour: usize,
    /// Those that are asked for, all together in an hour; a quarter of it is left free, and half by sign-ups. Notifications have
    /// half as many of their own. Those that tell of changes don't count, and none of them is refused.
    pub in_total_per_hour: usize,
}

/// A mail to send.
#[derive(Debug, Clone, Copy)]
pub struct NewMail<'a> {
    /// What it is about.
    pub kind: MailKind,
    /// The account that it is about.
    pub user_id: Option<&'a str>,
    /// A valid e-mail address, lower case.
    pub recipient: &'a str,
    /// The id of the link in its text, or of the notification that it tells of.
    pub link_id: Option<&'a str>,
}

/// A mail that this process sends now. No other does until `lease` is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedMail {
    /// 24 letters and digits.
    pub id: String,
    /// What it is about.
    pub kind: MailKind,
    /// Where it goes.
    pub recipient: String,
    /// The id of the link in its text, or of the notification that it tells of.
    pub link_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Attempts to send it, this one included.
    pub attempts: i64,
}

/// What became of an attempt to send a mail.
#[derive(Debug, Clone, Copy)]
pub enum MailOutcome<'a> {
    /// The mail server has it.
    Sent,
    /// It is tried again.
    Retry {
        /// When.
        at: Timestamp,
        /// Why it wasn't sent.
        error: &'a str,
    },
    /// It is never sent.
    Failed {
        /// Why.
        error: &'a str,
    },
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    kind: String,
    recipient: String,
    link_id: Option<String>,
    created_at: Timestamp,
    attempts: i64,
}

/// Mails of the kinds `$2` and `$3` to `$1` since `$4`, `$5` at most.
pub(crate) const COUNT_TO: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM mails WHERE recipient = $1 AND kind IN ($2, $3) \
     AND created_at > $4 LIMIT $5) AS counted";
/// Mails since `$1` that were asked for, `$2` at most.
pub(crate) const COUNT_ASKED_FOR: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM mails WHERE created_at > $1 AND kind IN \
     ('sign_up', 'address_taken', 'reset_password', 'confirm_email', 'address_taken_by_change', 'invitation') LIMIT $2) AS counted";
/// Notifications since `$1`, `$2` at most.
pub(crate) const COUNT_NOTIFICATIONS: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM mails WHERE created_at > $1 \
     AND kind = 'notification' LIMIT $2) AS counted";
/// Mails that wait, `$1` at most.
pub(crate) const COUNT_WAITING: &str =
    "SELECT COUNT(*) FROM (SELECT 1 FROM mails WHERE state = 'waiting' LIMIT $1) AS counted";
pub(crate) const INSERT: &str = "INSERT INTO mails (id, kind, user_id, recipient, link_id, state, created_at, \
     next_attempt_at, attempts, error) VALUES ($1, $2, $3, $4, $5, 'waiting', $6, $6, 0, '')";
/// The mail that is due first. Another process that claims it at the same time waits for this one, and then finds it taken.
pub(crate) const CLAIM: &str = "UPDATE mails SET next_attempt_at = $1, attempts = attempts + 1 \
     WHERE id = (SELECT id FROM mails WHERE state = 'waiting' AND next_attempt_at <= $2 ORDER BY next_attempt_at LIMIT 1) \
     AND state = 'waiting' AND next_attempt_at <= $2 RETURNING id, kind, recipient, link_id, created_at, attempts";
const FINISH: &str = "UPDATE mails SET state = $1, next_attempt_at = $2, error = $3 \
     WHERE id = $4 AND state = 'waiting' AND attempts = $5";
pub(crate) const DELETE_OLD: &str = "DELETE FROM mails WHERE created_at < $1";

/// What the limits leave to a mail.
pub(crate) struct Room {
    kind: MailKind,
    in_total_per_hour: usize,
    pub(crate) to_recipient_max: i64,
    pub(crate) since: Timestamp,
}

impl Room {
    pub(crate) fn new(kind: MailKind, limits: &MailLimits) -> Self {
        Self {
            kind,
            in_total_per_hour: limits.in_total_per_hour,
            to_recipient_max: number(limits.to_recipient_per_hour),
            since: now().saturating_sub(HOUR),
        }
    }

    /// The query that counts mails of its group, and how many there may be. `None` for notices.
    pub(crate) fn in_total(&self, to_recipient: i64) -> Option<(&'static str, i64)> {
        let to_recipient = usize::try_from(to_recipient).unwrap_or(usize::MAX);
        let max = number(self.kind.part_of(self.in_total_per_hour, to_recipient)?);
        match self.kind.group() {
            MailGroup::AskedFor => Some((COUNT_ASKED_FOR, max)),
            MailGroup::Notifications => Some((COUNT_NOTIFICATIONS, max)),
            MailGroup::Notices => None,
        }
    }

    /// How many may wait. Notifications leave half to the others while the mail server is away.
    pub(crate) fn queue_max(&self) -> i64 {
        if self.kind.group() == MailGroup::Notifications { QUEUE_MAX / 2 } else { QUEUE_MAX }
    }
}

fn number(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}

/// Adds a mail in a transaction, if the limits leave room for it. Returns whether they do.
macro_rules! insert_mail {
    ($tx:expr, $mail:expr, $limits:expr) => {{
        let mail: $crate::NewMail<'_> = $mail;
        let room = $crate::mail::Room::new(mail.kind, $limits);
        let [kind, other_kind] = mail.kind.counted_with();
        let to_recipient: i64 = sqlx::query_scalar($crate::mail::COUNT_TO)
            .bind(mail.recipient)
            .bind(kind.as_str())
            .bind(other_kind.as_str())
            .bind(room.since)
            .bind(room.to_recipient_max)
            .fetch_one(&mut *$tx)
            .await?;
        let has_room_in_total = match room.in_total(to_recipient) {
            None => true,
            Some((count, max)) => {
                let in_total: i64 =
                    sqlx::query_scalar(count).bind(room.since).bind(max).fetch_one(&mut *$tx).await?;
                in_total < max
            }
        };
        let waiting: i64 = sqlx::query_scalar($crate::mail::COUNT_WAITING)
            .bind(room.queue_max())
            .fetch_one(&mut *$tx)
            .await?;
        let has_room =
            to_recipient < room.to_recipient_max && has_room_in_total && waiting < room.queue_max();
        if has_room {
            sqlx::query($crate::mail::INSERT)
                .bind($crate::id::random())
                .bind(mail.kind.as_str())
                .bind(mail.user_id)
                .bind(mail.recipient)
                .bind(mail.link_id)
                .bind($crate::now())
                .execute(&mut *$tx)
                .await?;
        }
        has_room
    }};
}
pub(crate) use insert_mail;

impl Store {
    /// Adds a mail.
    ///
    /// # Errors
    /// `LimitReached("mail")`, `NotFound("user")`.
    pub async fn add_mail(&self, mail: &NewMail<'_>, limits: &MailLimits) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            if !insert_mail!(tx, *mail, limits) {
                return Err(StoreError::LimitReached("mail"));
            }
        });
        Ok(())
    }

    /// Takes the mail that is due first. Until `lease` is over, no other process takes it.
    ///
    /// # Errors
    /// `Corrupt` if its row is invalid; it isn't due again until `lease` is over.
    pub async fn claim_mail(&self, lease: Duration) -> Result<Option<ClaimedMail>, StoreError> {
        let (at, until) = (now(), now().saturating_add(lease));
        let row: Option<Result<Row, StoreError>> = write_unversioned!(self, tx => {
            sqlx::query(CLAIM).bind(until).bind(at).map(|row| decode(&row, SHORT_ROW_BYTES_MAX))
                .fetch_optional(&mut *tx).await?
        });
        row.map(|row| ClaimedMail::try_from(row?)).transpose()
    }

    /// Records what became of a mail that this process has claimed. Does nothing if another process has claimed it since.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn finish_mail(&self, mail: &ClaimedMail, outcome: &MailOutcome<'_>) -> Result<(), StoreError> {
        let (state, next, error) = match *outcome {
            MailOutcome::Sent => ("sent", now(), ""),
            MailOutcome::Retry { at, error } => ("waiting", at, error),
            MailOutcome::Failed { error } => ("failed", now(), error),
        };
        let error: String = error.chars().take(ERROR_MAX).collect();
        write_unversioned!(self, tx => {
            sqlx::query(FINISH).bind(state).bind(next).bind(&error).bind(&mail.id).bind(mail.attempts)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Mails that wait, 1,000 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn waiting_mails(&self) -> Result<usize, StoreError> {
        let count: i64 = read!(self, pool => sqlx::query_scalar(COUNT_WAITING).bind(QUEUE_MAX)
            .fetch_one(pool).await)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Deletes rows of mails that were made over a week ago; returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn delete_old_mails(&self) -> Result<u64, StoreError> {
        let before = now().saturating_sub(KEPT_FOR);
        Ok(write_unversioned!(self, tx => sqlx::query(DELETE_OLD).bind(before)
            .execute(&mut *tx).await?.rows_affected()))
    }
}

impl TryFrom<Row> for ClaimedMail {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            kind: MailKind::parse(&row.kind)?,
            id: row.id,
            recipient: row.recipient,
            link_id: row.link_id,
            created_at: row.created_at,
            attempts: row.attempts,
        })
    }
}
