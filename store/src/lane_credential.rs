//! The credential with which lanes log in to one generation of one instance: user, secret, the forms in which memcached
//! takes them, and what it answers. Proxy and provisioner log in alike (docs/protocol.md, L-4).

use std::fmt;

/// The user in every instance's authentication file.
const USER: &str = "lane";

/// A lane's credential. `Debug` doesn't print the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct LaneCredential {
    secret: String,
}

impl LaneCredential {
    /// A request that an instance refuses before the login, and that holds nothing secret. At least 7 bytes: memcached
    /// 1.6.45 closes a connection whose first line is shorter. Sent alone: memcached drops the reply to what comes before a
    /// login in the same packet.
    pub const VERSION_REQUEST: &str = "version\r\n";
    /// How an instance refuses it before the login: the line without its end.
    pub const UNAUTHENTICATED: &str = "CLIENT_ERROR unauthenticated";
    /// The reply to [`Self::login_command`] with the right secret.
    pub const LOGIN_OK: &str = "STORED";
    /// The reply to a wrong one.
    pub const LOGIN_FAILED: &str = "CLIENT_ERROR authentication failure";
    /// What the version follows, once logged in.
    pub const VERSION_PREFIX: &str = "VERSION ";

    /// A credential with this secret, which must not hold spaces or line ends. Use
    /// [`LaneKey::credential`](crate::LaneKey::credential) unless in a test.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self { secret }
    }

    /// The file that memcached reads with `-Y`: `lane:<secret>`, one line.
    #[must_use]
    pub fn auth_file(&self) -> String {
        format!("{USER}:{}\n", self.secret)
    }

    /// The value of the text login: `lane <secret>`.
    #[must_use]
    pub fn login_value(&self) -> String {
        format!("{USER} {}", self.secret)
    }

    /// The whole text login: a `set` whose value is [`Self::login_value`].
    #[must_use]
    pub fn login_command(&self) -> String {
        let value = self.login_value();
        format!("set auth 0 0 {}\r\n{value}\r\n", value.len())
    }
}

impl fmt::Debug for LaneCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneCredential")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_lane_credential() {
        let credential = LaneCredential::new("0123".to_owned());
        assert_eq!(credential.auth_file(), "lane:0123\n");
        assert_eq!(credential.login_command(), "set auth 0 0 9\r\nlane 0123\r\n");
        assert_eq!(format!("{credential:?}"), "LaneCredential");
    }
}
