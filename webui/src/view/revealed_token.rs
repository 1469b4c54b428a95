//! A token on the page that shows its secret.

use store::NewToken;

use super::endpoint::Credentials;

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
        Self {
            name: name.to_owned(),
            cache: cache.to_owned(),
            token: token.token.reveal(),
            credentials: Credentials::of(&token.token),
            id: token.token.id().to_string(),
        }
    }
}
