//! The settings as far as they are harmless: an allow-list, so that a setting that is added later is left out until somebody
//! has thought about it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::settings::{Settings, flat};

/// Settings whose text can't be a secret, nor a person's address. Numbers and switches can't be either.
const HARMLESS: [&str; 17] = [
    "log.filter",
    "log.format",
    "store.path",
    "proxy.listen",
    "proxy.health",
    "proxy.proxy_protocol_from",
    "proxy.tls_certificate",
    "proxy.tls_key",
    "provisioner.docker_socket",
    "provisioner.health",
    "provisioner.image",
    "provisioner.proxy_user",
    "provisioner.subnets",
    "webui.health",
    "webui.listen",
    "webui.sign_up",
    "webui.trusted_proxies",
];

/// All settings; of those that may hold a secret, only whether they are set.
pub(super) fn harmless(settings: &Settings) -> BTreeMap<String, Value> {
    let shown = |(key, value): (String, Value)| {
        let is_harmless = HARMLESS.contains(&key.as_str());
        let value = match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
            value if is_harmless => value,
            Value::String(text) if text.is_empty() => Value::String(text),
            _ => Value::String("(set)".to_owned()),
        };
        (key, value)
    };
    flat(settings).into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn texts_that_nobody_has_allowed_are_left_out() {
        let mut settings = Settings::default();
        settings.store.url = Some("postgres://a:secret@b/c".into());
        settings.webui.mail.password = Some("secret".into());
        settings.webui.mail.server = Some("smtps://secret@b".into());
        settings.webui.contact = Some("secret@example.org".into());
        settings.proxy.listen.set_port(4_711);
        let shown = harmless(&settings);
        let text = serde_json::to_string(&shown).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(shown["store.url"], "(set)");
        assert_eq!(shown["proxy.listen"], "0.0.0.0:4711");
        assert_eq!(shown["webui.mail.password_file"], Value::Null);
        assert_eq!(shown["proxy.connections"], 100_000);
    }

    #[test]
    fn harmless_settings_exist() {
        let known: Vec<String> = flat(&Settings::default()).into_iter().map(|(key, _)| key).collect();
        for key in HARMLESS {
            assert!(known.iter().any(|known| known == key), "{key}");
        }
    }
}
