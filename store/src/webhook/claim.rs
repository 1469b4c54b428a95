//! Deliveries that are being made. Several processes may deliver: each claims a webhook first, for a while, so that a webhook gets
//! one notification at a time, and few of a user's or a host's are sent to at the same time, however slow they are.

use std::time::Duration;

use super::{Row, Webhook};
use crate::db::write_unversioned;
use crate::notification::{self, Notification};
use crate::rows::{ROW_BYTES_MAX, decode};
use crate::{Store, StoreError, Timestamp, now};

/// Webhooks of a user that are sent to at the same time.
const OF_USER_MAX: i64 = 2;
/// Webhooks of a host that are sent to at the same time: of several users, so that one who makes it slow leaves places to others.
const OF_HOST_MAX: i64 = 6;
/// A webhook is disabled once all attempts have failed for this long.
const FAILING_MAX: Duration = Duration::from_hours(3 * 24);
/// Characters that are kept of an error.
const ERROR_MAX: usize = 200;

/// A delivery that this process makes now. No other does until its lease is over.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedDelivery {
    /// 24 letters and digits.
    pub id: String,
    /// Where it goes.
    pub webhook: Webhook,
    /// What is sent.
    pub notification: Notification,
    /// Attempts, this one included.
    pub attempts: i64,
    leased_until: Timestamp,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy)]
pub enum DeliveryOutcome<'a> {
    /// The receiver has it; its status.
    Delivered(u16),
    /// It is tried again.
    Retry {
        /// When.
        at: Timestamp,
        /// The receiver's status, if it has replied.
        status: Option<u16>,
        /// Why the attempt failed, in our words.
        error: &'a str,
    },
    /// It is given up.
    Failed {
        /// The receiver's status, if it has replied.
        status: Option<u16>,
        /// Why the attempt failed, in our words.
        error: &'a str,
    },
}

/// What a finished attempt means for its webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Nothing.
    Continue,
    /// A delivery was given up, and every attempt has failed for three days: the webhook is to be disabled.
    Disable,
}

/// A webhook that was claimed, and its delivery: none if that was deleted with its notification. Then it isn't due any more.
struct ClaimedRows {
    webhook: Row,
    delivery: Option<Delivery>,
}

struct Delivery {
    id: String,
    notification: Option<Result<notification::Row, StoreError>>,
    attempts: i64,
}

/// Of the webhooks that are due, the one that was sent to longest ago: one with many deliveries waits for all others after each.
/// With `$5` = 1, only one whose last attempt didn't fail. Another process that claims it at the same time waits for this one,
/// and then finds it taken.
pub(crate) const CLAIM: &str = "UPDATE webhooks SET leased_until = $1, served_at = $2 WHERE id = (SELECT w.id FROM webhooks w \
     WHERE w.state = 'enabled' AND w.next_attempt_at <= $2 AND w.leased_until <= $2 \
     AND ($5 = 0 OR w.failing_since IS NULL) \
     AND EXISTS (SELECT 1 FROM users u WHERE u.id = w.user_id AND u.state = 'active') \
     AND (SELECT COUNT(*) FROM webhooks b WHERE b.user_id = w.user_id AND b.leased_until > $2) < $3 \
     AND (SELECT COUNT(*) FROM webhooks b WHERE b.host = w.host AND b.leased_until > $2) < $4 \
     ORDER BY w.served_at, w.next_attempt_at LIMIT 1) AND leased_until <= $2 \
     RETURNING id, user_id, url, description, kinds, state, reason, generation, rotated_at, created_at, failing_since";
/// The delivery of the webhook `$3` that is due first.
pub(crate) const CLAIM_DELIVERY: &str = "UPDATE webhook_deliveries SET attempts = attempts + 1, attempted_at = $2, \
     next_attempt_at = $1 WHERE id = (SELECT id FROM webhook_deliveries WHERE webhook_id = $3 AND state = 'waiting' \
     AND next_attempt_at <= $2 ORDER BY next_attempt_at LIMIT 1) RETURNING id, notification_id, attempts";
const FINISH: &str = "UPDATE webhook_deliveries SET state = $1, next_attempt_at = $2, status = $3, error = $4 \
     WHERE id = $5 AND state = 'waiting' AND attempts = $6";
/// Ends the lease, unless another process has one.
pub(crate) const RELEASE: &str = "UPDATE webhooks SET leased_until = 0, next_attempt_at = (SELECT MIN(d.next_attempt_at) \
     FROM webhook_deliveries d WHERE d.webhook_id = $1 AND d.state = 'waiting') WHERE id = $1 AND leased_until = $2";
const SUCCEEDS: &str = "UPDATE webhooks SET failing_since = NULL WHERE id = $1";
const FAILS: &str =
    "UPDATE webhooks SET failing_since = COALESCE(failing_since, $1) WHERE id = $2 RETURNING failing_since";

/// Each query, with the steps that it may take other than searching an index.
#[cfg(test)]
pub(crate) const QUERY_PLANS: &[(&str, &[&str])] = &[
    // Those that are due are sorted.
    (CLAIM, &["SCALAR SUBQUERY", "CORRELATED SCALAR SUBQUERY", "USE TEMP B-TREE FOR ORDER BY"]),
    (CLAIM_DELIVERY, &["SCALAR SUBQUERY"]),
    (RELEASE, &["SCALAR SUBQUERY"]),
];

impl Store {
    /// Takes a delivery that is due, of the webhook to which nothing was sent for longest and nothing is being sent now. Until
    /// `lease` is over, no other process sends to that webhook.
    ///
    /// # Errors
    /// `Corrupt` if its row is invalid; it isn't due again until `lease` is over.
    pub async fn claim_delivery(&self, lease: Duration) -> Result<Option<ClaimedDelivery>, StoreError> {
        self.claim(lease, false).await
    }

    /// The same, of a webhook whose last attempt didn't fail.
    ///
    /// # Errors
    /// As [`Store::claim_delivery`].
    pub async fn claim_working_delivery(
        &self,
        lease: Duration,
    ) -> Result<Option<ClaimedDelivery>, StoreError> {
        self.claim(lease, true).await
    }

    async fn claim(
        &self,
        lease: Duration,
        only_working: bool,
    ) -> Result<Option<ClaimedDelivery>, StoreError> {
        // Each webhook that has nothing is released, and isn't due any more.
        loop {
            let (at, until) = (now(), now().saturating_add(lease));
            let Some(claimed) = self.try_claim(at, until, only_working).await?.transpose()? else {
                return Ok(None);
            };
            let ClaimedRows { webhook, delivery: Some(Delivery { id, notification, attempts }) } = claimed
            else {
                continue;
            };
            let notification = notification.transpose()?.and_then(notification::Row::into_notification);
            let notification = notification.ok_or(StoreError::Corrupt("notification"))?;
            let webhook = Webhook::try_from(webhook)?;
            return Ok(Some(ClaimedDelivery { id, webhook, notification, attempts, leased_until: until }));
        }
    }

    async fn try_claim(
        &self,
        at: Timestamp,
        until: Timestamp,
        only_working: bool,
    ) -> Result<Option<Result<ClaimedRows, StoreError>>, StoreError> {
        Ok(write_unversioned!(self, tx => {
            let claim = sqlx::query(CLAIM).bind(until).bind(at).bind(OF_USER_MAX).bind(OF_HOST_MAX);
            let webhook: Option<Result<Row, StoreError>> = claim.bind(i64::from(only_working))
                .map(|row| decode(&row, ROW_BYTES_MAX)).fetch_optional(&mut *tx).await?;
            match webhook {
                None => None,
                Some(Err(error)) => Some(Err(error)),
                Some(Ok(webhook)) => {
                    let delivery: Option<(String, String, i64)> = sqlx::query_as(CLAIM_DELIVERY).bind(until).bind(at)
                        .bind(&webhook.id).fetch_optional(&mut *tx).await?;
                    let delivery = match delivery {
                        None => {
                            sqlx::query(RELEASE).bind(&webhook.id).bind(until).execute(&mut *tx).await?;
                            None
                        }
                        Some((id, notification, attempts)) => {
                            let notification: Option<Result<notification::Row, StoreError>> =
                                sqlx::query(notification::BY_ID).bind(&notification)
                                .map(|row| decode(&row, ROW_BYTES_MAX)).fetch_optional(&mut *tx).await?;
                            Some(Delivery { id, notification, attempts })
                        }
                    };
                    Some(Ok(ClaimedRows { webhook, delivery }))
                }
            }
        }))
    }

    /// Records what became of a delivery that this process has claimed. Changes no delivery that another process has claimed since.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn finish_delivery(
        &self,
        claimed: &ClaimedDelivery,
        outcome: &DeliveryOutcome<'_>,
    ) -> Result<Finished, StoreError> {
        let at = now();
        let (state, next, status, error) = match *outcome {
            DeliveryOutcome::Delivered(status) => ("delivered", at, Some(status), ""),
            DeliveryOutcome::Retry { at, status, error } => ("waiting", at, status, error),
            DeliveryOutcome::Failed { status, error } => ("failed", at, status, error),
        };
        let error: String = error.chars().take(ERROR_MAX).collect();
        let (webhook, succeeds) = (&claimed.webhook.id, state == "delivered");
        let failing_since: Option<Timestamp> = write_unversioned!(self, tx => {
            // The webhook's row first: PostgreSQL evaluates RELEASE's subselect with the snapshot from before a wait for the
            // row, and would miss a delivery that is added meanwhile.
            let failing_since = if succeeds {
                sqlx::query(SUCCEEDS).bind(webhook).execute(&mut *tx).await?;
                None
            } else {
                sqlx::query_scalar(FAILS).bind(at).bind(webhook).fetch_optional(&mut *tx).await?
            };
            sqlx::query(FINISH).bind(state).bind(next).bind(status.map(i64::from)).bind(&error).bind(&claimed.id)
                .bind(claimed.attempts).execute(&mut *tx).await?;
            sqlx::query(RELEASE).bind(webhook).bind(claimed.leased_until).execute(&mut *tx).await?;
            failing_since
        });
        let fails_for_days = failing_since.is_some_and(|since| at.since(since) >= FAILING_MAX);
        // After a quiet time the first attempt says nothing: the receiver may have worked in between.
        let is_given_up = matches!(outcome, DeliveryOutcome::Failed { .. });
        Ok(if is_given_up && fails_for_days { Finished::Disable } else { Finished::Continue })
    }
}
