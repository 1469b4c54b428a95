//! Why a login or request was denied, in plain words, and how to fix it.

use store::{DenialRecord, now};

use super::date::ago;

/// Denials of one token that share cause, source and protocol.
pub(crate) struct DenialView {
    pub(crate) token_id: String,
    pub(crate) token_name: String,
    pub(crate) cause: &'static str,
    /// What happened.
    pub(crate) summary: &'static str,
    /// What the token's owner can do.
    pub(crate) fix: &'static str,
    /// Source address, detail and protocol.
    pub(crate) origin: String,
    /// How often, and when last.
    pub(crate) when: String,
}

impl DenialView {
    pub(crate) fn new(denial: DenialRecord, token_name: &str) -> Self {
        let DenialRecord { token_id, cause, source, detail, protocol, tls, count, last_at, .. } = denial;
        let mut origin = match source {
            Some(source) => format!("From {source}"),
            None => "From many other addresses".to_owned(),
        };
        if !detail.is_empty() {
            origin.push_str(&format!(", {detail}"));
        }
        let tls = if tls { "with TLS" } else { "without TLS" };
        origin.push_str(&format!(", {protocol} protocol {tls}"));
        let ago = ago(now().since(last_at));
        let when = if count == 1 { ago } else { format!("{count} times, last {ago}") };
        Self {
            token_id,
            token_name: token_name.to_owned(),
            cause: cause.as_str(),
            summary: cause.what(),
            fix: cause.fix(),
            origin,
            when,
        }
    }
}
