//! Why somebody was refused, in plain words, and how to set it right.

use store::{DenialRecord, now};

use crate::date::ago;

/// Denials of one cause, from one place, in one way.
pub(crate) struct RefusalView {
    pub(crate) token_id: String,
    pub(crate) token_name: String,
    pub(crate) cause: &'static str,
    pub(crate) what: &'static str,
    pub(crate) fix: &'static str,
    /// Where from, and how.
    pub(crate) whence: String,
    /// How often, and when last.
    pub(crate) when: String,
}

impl RefusalView {
    pub(crate) fn of(denial: DenialRecord, token_name: &str) -> Self {
        let DenialRecord { token_id, cause, source, hint, protocol, tls, times, last_at, .. } = denial;
        let mut whence = match source {
            Some(source) => format!("From {source}"),
            None => "From many other addresses".to_owned(),
        };
        if !hint.is_empty() {
            whence.push_str(&format!(", {hint}"));
        }
        let tls = if tls { "with TLS" } else { "without TLS" };
        whence.push_str(&format!(", {protocol} protocol {tls}"));
        let ago = ago(now().saturating_sub(last_at));
        let when = if times == 1 { ago } else { format!("{times} times, last {ago}") };
        Self {
            token_id,
            token_name: token_name.to_owned(),
            cause: cause.as_str(),
            what: cause.what(),
            fix: cause.fix(),
            whence,
            when,
        }
    }
}
