//! A token on the page that shows its secret.

use store::NewToken;

use super::snippets::Credentials;

/// A token that was just created: the only time that its secret is shown.
pub(crate) struct RevealedToken {
    pub(crate) name: String,
    /// Name of its cache.
    pub(crate) cache: String,
    pub(crate) token: String,
    pub(crate) credentials: Credentials,
    /// Its id.
    pub(crate) id: String,
}

impl RevealedToken {
    pub(crate) fn new(token: &NewToken, name: &str, cache: &str) -> Self {
        let (id, secret) = (token.token.id(), token.token.secret());
        Self {
            name: name.to_owned(),
            cache: cache.to_owned(),
            token: token.token.reveal(),
            credentials: Credentials { username: id.username(), password: secret.reveal().to_owned() },
            id: id.to_string(),
        }
    }
}
