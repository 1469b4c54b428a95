//! Tokens in lists and notices: why one is inactive, and which ones were found in public.

use store::{Leak, TokenRow, now};

use super::date::{ago, minute_of};

/// Banner about a token that was found in public and revoked.
#[derive(Debug)]
pub(crate) struct LeakNotice {
    pub(crate) token_id: String,
    pub(crate) token_name: String,
    /// Where it was found; empty if the report didn't say.
    pub(crate) url: String,
    pub(crate) day: String,
}

impl LeakNotice {
    pub(crate) fn new(leak: &Leak) -> Self {
        let (token_id, token_name) = (leak.token_id.clone(), leak.name.clone());
        Self { token_id, token_name, url: leak.url.clone(), day: minute_of(leak.at) }
    }
}

/// Why a token is inactive; `None` for an active one. `leaks` are the leaks of the token's user.
pub(crate) fn inactive_reason(token: &TokenRow, leaks: &[Leak]) -> Option<String> {
    let leak = leaks.iter().find(|leak| leak.token_id == token.id);
    match token.revoked_at {
        Some(at) => Some(leak.map_or_else(|| format!("revoked {}", minute_of(at)), found_in_public)),
        None if token.is_active(now()) => None,
        None => {
            let at = token.permissions.expires_at;
            Some(at.map_or_else(|| "expired".to_owned(), |at| format!("expired {}", minute_of(at))))
        }
    }
}

/// When a token was last used, and by which client: `last used 2 minutes ago (29 Nov 2026, 14:05 UTC) from 192.0.2.7`.
pub(crate) fn last_used(token: &TokenRow) -> String {
    let from = token.last_used_from.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
    token.last_used_at.map_or_else(
        || "never used".to_owned(),
        |at| format!("last used {} ({}){from}", ago(now().since(at)), minute_of(at)),
    )
}

fn found_in_public(leak: &Leak) -> String {
    let at = if leak.url.is_empty() { String::new() } else { format!(" at {}", leak.url) };
    format!("found in public{at}, revoked {}", minute_of(leak.at))
}
