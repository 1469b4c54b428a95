//! The order in which transactions lock webhooks: users by their ids, a user's webhooks by theirs, then deliveries. So of two
//! transactions that write the same ones, the later one waits, and PostgreSQL ends neither as a deadlock.

/// The webhooks of the user `$1` that are in use.
pub(crate) const ENABLED_OF: &str =
    "SELECT id FROM webhooks WHERE user_id = $1 AND state = 'enabled' ORDER BY id LIMIT 100";
/// Locks the webhook `$1` until the commit, if it is in use. SQLite has locked everything already.
pub(crate) const LOCK: &str = "UPDATE webhooks SET leased_until = leased_until WHERE id = $1 AND state = 'enabled' \
     RETURNING user_id, kinds";

/// Locks a webhook in a transaction, if it is in use. Evaluates to its user and the names of the kinds that it wants.
macro_rules! lock_webhook {
    ($tx:expr, $id:expr) => {{
        let id: &str = $id;
        let locked: Option<(String, String)> =
            sqlx::query_as($crate::webhook::LOCK).bind(id).fetch_optional(&mut *$tx).await?;
        locked
    }};
}

/// Locks the webhooks of a user that are in use, in a transaction. Evaluates to the id and the kinds of each.
macro_rules! lock_webhooks {
    ($tx:expr, $user:expr) => {{
        let user: &str = $user;
        let ids: Vec<String> =
            sqlx::query_scalar($crate::webhook::ENABLED_OF).bind(user).fetch_all(&mut *$tx).await?;
        let mut locked: Vec<(String, $crate::NotificationKinds)> = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some((_, kinds)) = $crate::webhook::lock_webhook!($tx, &id) {
                // A row that can't be read wants nothing.
                locked.push((id, kinds.parse().unwrap_or_default()));
            }
        }
        locked
    }};
}
pub(crate) use {lock_webhook, lock_webhooks};
