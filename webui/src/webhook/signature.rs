//! Signatures of what is sent, and the secret that receivers check them with (standardwebhooks.com).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use store::{Timestamp, TokenKey, Webhook};

/// What a request carries of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The notification's id, the same at each attempt.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) timestamp: i64,
    /// `v1,<base64>` for each secret that counts, with spaces between them.
    pub(crate) signatures: String,
}

/// The secret of a webhook as its user sees it, once.
pub(crate) fn secret_text(key: &TokenKey, webhook_id: &str, generation: i64) -> String {
    format!("whsec_{}", STANDARD.encode(key.webhook_secret(webhook_id, generation)))
}

impl Signed {
    /// Signs a body with each secret of a webhook that counts now.
    pub(crate) fn new(key: &TokenKey, webhook: &Webhook, id: &str, body: &str, now: Timestamp) -> Self {
        let timestamp = now.as_millis().div_euclid(1000);
        let sign = |generation: i64| {
            let secret = key.webhook_secret(&webhook.id, generation);
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("HMAC takes keys of any length");
            mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        let signatures: Vec<String> = webhook.generations(now).into_iter().map(sign).collect();
        Self { id: id.to_owned(), timestamp, signatures: signatures.join(" ") }
    }
}
