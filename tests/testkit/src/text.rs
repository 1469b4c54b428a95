//! Requests of the text protocol.

use store::Token;

/// Returns a `set` of `value` under `key`, without flags or expiry.
pub fn set(key: &str, value: &str) -> String {
    format!("set {key} 0 0 {}\r\n{value}\r\n", value.len())
}

/// Returns the credential of `token` as text clients send it: username, space, secret.
pub fn credential(token: &Token) -> String {
    format!("{} {}", token.id().username(), token.secret().reveal())
}

/// Returns a login with `token`.
pub fn login(token: &Token) -> String {
    set("x", &credential(token))
}
