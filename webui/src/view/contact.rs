//! Whom pages tell users to ask.

use identity::Email;

/// The setting `webui.contact`, as pages show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) text: String,
    /// For an e-mail or web address.
    pub(crate) href: Option<String>,
}

impl Contact {
    pub(crate) fn new(text: &str) -> Self {
        let href = match Email::parse(text) {
            Ok(email) => Some(format!("mailto:{email}")),
            Err(_) => text.starts_with("https://").then(|| text.to_owned()),
        };
        Self { text: text.to_owned(), href }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_links() {
        for (text, href) in [
            ("ops@example.org", Some("mailto:ops@example.org")),
            ("https://example.org/help", Some("https://example.org/help")),
            ("javascript:alert(1)", None),
            ("the people in room 7", None),
        ] {
            assert_eq!(Contact::new(text).href.as_deref(), href, "{text}");
        }
    }
}
