//! Notifications in words, and as the JSON object that webhooks and the API have.

use identity::time_text::rfc3339;
use serde_json::{Map, Value, json};
use store::{EventCause, Notification, NotificationKind, Timestamp};

use super::date::minute_of;

/// A notification as webhooks get it.
pub(crate) fn payload(notification: &Notification) -> Value {
    let cache = notification.cache_id.as_ref().map(|id| json!({ "id": id, "name": notification.cache_name }));
    json!({
        "id": notification.id,
        "kind": notification.kind,
        "created_at": rfc3339(notification.created_at),
        "cache": cache,
        "data": data(notification),
        "text": text(notification),
    })
}

/// The rest of a notification, with times in UTC (RFC 3339).
pub(crate) fn data(notification: &Notification) -> Map<String, Value> {
    let shown = |(name, value): (&String, &Value)| {
        let time = value.as_i64().filter(|_| name.ends_with("_at"));
        let value = time.map_or_else(|| value.clone(), |at| rfc3339(Timestamp::from_millis(at)).into());
        (name.clone(), value)
    };
    notification.data.iter().map(shown).collect()
}

/// What mails say of a notification's data: ids, times, and words of ours.
const IN_MAIL: [&str; 8] =
    ["token_id", "fingerprint", "expires_at", "failed_at", "happened_at", "cause", "reason", "limit"];

/// What a mail about it is called.
pub(crate) fn title(kind: NotificationKind) -> &'static str {
    match kind {
        NotificationKind::TokenLeaked => "A token of yours was found in public",
        NotificationKind::TokenExpiring => "A token of yours expires soon",
        NotificationKind::CertificateExpiring => "A certificate of yours expires soon",
        NotificationKind::CacheFailed => "A cache of yours failed",
        NotificationKind::CacheRecovered => "A cache of yours works again",
        NotificationKind::CacheEmptied => "A cache of yours lost its contents",
        NotificationKind::CacheOutOfMemory => "A cache of yours ran out of memory",
        NotificationKind::PlanLimitReached => "A limit of your plan was reached",
        NotificationKind::WebhookDisabled => "A webhook of yours was disabled",
        NotificationKind::Test => "A test",
    }
}

/// What happened, and what to do, in one or two sentences. Says nothing that somebody else has written: where a leaked token was
/// found is in the data only.
pub(crate) fn text(notification: &Notification) -> String {
    let word = |name: &str| notification.data.get(name).and_then(Value::as_str).unwrap_or_default();
    let time = |name: &str| {
        let at = notification.data.get(name).and_then(Value::as_i64);
        at.map_or_else(String::new, |at| minute_of(Timestamp::from_millis(at)))
    };
    let cache = &notification.cache_name;
    match notification.kind {
        NotificationKind::TokenLeaked => format!(
            "Token {} of cache {cache} was found in public, and is revoked. Create a new one for each application that used it.",
            named(word("token_name"), word("token_id"))
        ),
        NotificationKind::TokenExpiring => format!(
            "Token {} of cache {cache} expires on {}. Rotate it, or give applications another one.",
            named(word("token_name"), word("token_id")),
            time("expires_at")
        ),
        NotificationKind::CertificateExpiring => format!(
            "Certificate {} of token {} of cache {cache} expires on {}. Issue another one.",
            named(word("certificate_name"), word("fingerprint").get(..12).unwrap_or_default()),
            named(word("token_name"), word("token_id")),
            time("expires_at")
        ),
        NotificationKind::CacheFailed if word("reason") == "repeated" => format!(
            "Cache {cache} fails again and again: {}. It is started again each time.",
            cause(word("cause"))
        ),
        NotificationKind::CacheFailed => {
            let message = word("message");
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            format!("Cache {cache} can’t be started{why}. It is tried again until it works.")
        }
        NotificationKind::CacheRecovered => {
            format!("Cache {cache} works again. It had failed on {}.", time("failed_at"))
        }
        NotificationKind::CacheEmptied => {
            format!("Cache {cache} lost its contents on {}: {}.", time("happened_at"), cause(word("cause")))
        }
        NotificationKind::CacheOutOfMemory if word("cause") == "container" => format!(
            "memcached of cache {cache} was ended on {}, because its container had no memory left. It was started again.",
            time("happened_at")
        ),
        NotificationKind::CacheOutOfMemory => format!(
            "Cache {cache} had no memory for new values, and refused some. Give it more memory, or store smaller values."
        ),
        NotificationKind::PlanLimitReached => {
            let what = match word("limit") {
                "connections" => "refused connections, because all of its plan’s were in use",
                "token_connections" => "refused connections, because all that one token may have were in use",
                _ => "delayed or refused requests beyond its plan’s rate",
            };
            format!("Cache {cache} {what}. The denials of the cache say to whom.")
        }
        NotificationKind::WebhookDisabled => {
            let host = word("host");
            let webhook = if host.is_empty() {
                "One of your webhooks".to_owned()
            } else {
                format!("The webhook to {host}")
            };
            let why = match word("reason") {
                "gone" => "its receiver answered 410 (gone)",
                _ => "every attempt had failed for three days",
            };
            format!("{webhook} was disabled, because {why}.")
        }
        NotificationKind::Test => "This is a test. If you can read it, the webhook works.".to_owned(),
    }
}

/// The same in a mail, with ids instead of names, hosts and messages. Anybody can sign up with somebody else's address, and mustn't
/// write to them in the operator's name.
pub(crate) fn mail_text(notification: &Notification) -> String {
    let mut without_names = notification.clone();
    without_names.cache_name = notification.cache_id.clone().unwrap_or_default();
    without_names.data.retain(|name, _| IN_MAIL.contains(&name.as_str()));
    text(&without_names)
}

/// A name, or an id without one.
fn named<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

fn cause(word: &str) -> &'static str {
    EventCause::ALL
        .iter()
        .find(|cause| cause.as_str() == word)
        .map_or("it was repaired", |cause| cause.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_text_without_gaps() {
        let data = json!({
            "token_id": "abcdefghijkl", "token_name": "web shop", "url": "https://evil.example/click", "source": "x",
            "fingerprint": "0123456789abcdef", "certificate_name": "laptop", "expires_at": 1_700_000_000_000_i64,
            "failed_at": 1_700_000_000_000_i64, "happened_at": 1_700_000_000_000_i64, "cause": "crashed",
            "reason": "failing", "message": "no room", "limit": "rate", "host": "hooks.example", "webhook_id": "w",
        });
        for kind in NotificationKind::CHOICES.into_iter().chain([NotificationKind::Test]) {
            let notification = Notification {
                id: "n".repeat(24),
                user_id: "u".repeat(24),
                kind,
                cache_id: Some("c".repeat(24)),
                cache_name: "default".to_owned(),
                data: data.as_object().unwrap().clone(),
                created_at: Timestamp::from_millis(1_700_000_000_000),
            };
            let text = text(&notification);
            assert!(text.ends_with('.') && !text.contains("  ") && !text.contains(" ."), "{text}");
            assert!(!text.contains("evil.example"), "{text}");
            // W-31.
            let in_mail = mail_text(&notification);
            assert!(
                in_mail.ends_with('.') && !in_mail.contains("  ") && !in_mail.contains(" ."),
                "{in_mail}"
            );
            for chosen in ["web shop", "laptop", "default", "no room", "hooks.example"] {
                assert!(!in_mail.contains(chosen), "{in_mail}");
            }
            let payload = payload(&notification);
            assert_eq!(payload["kind"], kind.name());
            assert_eq!(payload["data"]["expires_at"], "2023-11-14T22:13:20Z");
            assert_eq!(payload["cache"]["name"], "default");
        }
    }
}
