//! Sessions in the list of their user's.

use store::{SessionRow, now};

use super::date::{ago, minute_of};

/// A session in the list.
pub(crate) struct SessionView {
    pub(crate) browser: &'static str,
    /// The client's address; empty if it isn't known.
    pub(crate) source: String,
    pub(crate) created: String,
    pub(crate) last_seen: String,
    /// Whether it is the session that shows the list.
    pub(crate) is_this: bool,
}

impl SessionView {
    /// `this`: the id of the session that shows the list, as the store keeps it.
    pub(crate) fn new(session: SessionRow, this: &str) -> Self {
        Self {
            is_this: session.id_hash == this,
            browser: browser_name(&session.user_agent),
            created: minute_of(session.created_at),
            last_seen: ago(now().since(session.last_seen_at)),
            source: session.source,
        }
    }
}

/// A browser's name by what it says of itself. Most claim to be others too, so the order counts.
fn browser_name(user_agent: &str) -> &'static str {
    let names = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ];
    let found = names.into_iter().find(|(mark, _)| user_agent.contains(mark));
    found.map_or("Unknown browser", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_have_names() {
        for (user_agent, expected) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox"),
            ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36", "Chrome"),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0",
                "Edge",
            ),
            ("Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1", "Safari"),
            ("", "Unknown browser"),
        ] {
            assert_eq!(browser_name(user_agent), expected);
        }
    }
}
