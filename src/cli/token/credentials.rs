//! A new token with everything that a client needs to log in.

use serde::Serialize;
use store::Token;

/// What `user add` and `token create` print: the only time that the secret is shown.
/// No `Debug`: that would print the secret.
#[derive(Serialize)]
pub(crate) struct Credentials {
    email: String,
    cache: String,
    endpoint: String,
    username: String,
    password: String,
    token: String,
}

impl Credentials {
    pub(crate) fn new(email: &str, cache: &str, endpoint: &str, token: &Token) -> Self {
        Self {
            email: email.to_owned(),
            cache: cache.to_owned(),
            endpoint: endpoint.to_owned(),
            username: token.id().username(),
            password: token.secret().reveal().to_owned(),
            token: token.reveal(),
        }
    }

    /// The fields for text output, in the same order as in JSON.
    pub(crate) fn pairs(&self) -> [(&'static str, String); 6] {
        [
            ("email", self.email.clone()),
            ("cache", self.cache.clone()),
            ("endpoint", self.endpoint.clone()),
            ("username", self.username.clone()),
            ("password", self.password.clone()),
            ("token", self.token.clone()),
        ]
    }
}
