//! A new notification goes three ways: to its user's page, to webhooks, and by mail; all in the transaction that adds it.

use crate::{MailKind, NotificationKind};

pub(crate) const EMAIL_OF: &str =
    "SELECT email FROM users WHERE id = $1 AND deleted_at IS NULL AND state = 'active'";

/// The kind of mail that tells of it. Tokens that leaked have a limit of their own: nothing that happens more often keeps such a
/// mail back.
pub(crate) fn mail_kind(kind: NotificationKind) -> MailKind {
    if kind == NotificationKind::TokenLeaked { MailKind::TokenLeaked } else { MailKind::Notification }
}

/// Adds a notification in a transaction, with a delivery for each webhook that wants it, and a mail if the user wants one and the limits leave room.
macro_rules! insert_notification {
    ($tx:expr, $new:expr, $mail_limits:expr) => {{
        let new: &$crate::notification::NewNotification = $new;
        let mail_limits: Option<&$crate::MailLimits> = $mail_limits;
        // Before the oldest notifications go, with their deliveries.
        let webhooks = $crate::webhook::lock_webhooks!($tx, &new.user_id);
        let inserted: Option<String> = $crate::notification::insert_notification_only!($tx, new);
        if let Some(id) = &inserted {
            for (webhook, kinds) in &webhooks {
                if kinds.contains(new.kind) {
                    let _ = $crate::webhook_delivery::insert_delivery!($tx, webhook, id);
                }
            }
            let chosen: Option<String> = sqlx::query_scalar($crate::notification::preferences::MAIL_KINDS)
                .bind(&new.user_id)
                .fetch_optional(&mut *$tx)
                .await?;
            let wanted = $crate::notification::mail_kinds(chosen.as_deref());
            if let Some(limits) = mail_limits.filter(|_| wanted.contains(new.kind)) {
                let email: Option<String> = sqlx::query_scalar($crate::fan_out::EMAIL_OF)
                    .bind(&new.user_id)
                    .fetch_optional(&mut *$tx)
                    .await?;
                if let Some(email) = &email {
                    let mail = $crate::NewMail {
                        kind: $crate::fan_out::mail_kind(new.kind),
                        user_id: Some(&new.user_id),
                        recipient: email,
                        link_id: Some(id),
                    };
                    // Over a limit the notification is on the page all the same.
                    let _ = $crate::mail::insert_mail!($tx, mail, limits);
                }
            }
        }
        inserted
    }};
}
pub(crate) use insert_notification;
