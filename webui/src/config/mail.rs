//! The section `[webui.mail]`: which mail server, and who sends.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use crate::Error;

const TLS_PORT: u16 = 465;
const STARTTLS_PORT: u16 = 587;
const PLAIN_PORT: u16 = 25;

/// The section `[webui.mail]`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// The mail server: `smtps://user@smtp.example.org:465` (TLS), `smtp://user@smtp.example.org:587` (STARTTLS, without which
    /// nothing is sent), or one of this machine without TLS, by its address: `smtp://127.0.0.1:25`. Without a server no mail is
    /// sent: `memgate user reset-password` sets a new password.
    pub server: Option<String>,
    /// The password of the user in `server`. The settings file must not be readable by everybody then; or give it as
    /// `MEMGATE_WEBUI__MAIL__PASSWORD`, or in `password_file`.
    pub password: Option<String>,
    /// A file with that password instead, of root's or the web UI's user, which that user can read and others can't.
    pub password_file: Option<PathBuf>,
    /// The sender: `memgate <noreply@example.org>`.
    pub from: Option<String>,
    /// CA certificates (PEM) that the server's certificate has to be signed by, instead of those that browsers trust.
    pub ca_certificate: Option<PathBuf>,
}

impl fmt::Debug for Mail {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("server", &self.server).field("from", &self.from).finish_non_exhaustive()
    }
}

/// Where the mail server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
}

/// What protects a connection to the mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// TLS from the first byte on.
    Tls,
    /// TLS after a greeting; without it nothing is sent.
    StartTls,
    /// Nothing: a loopback address.
    Plain,
}

impl Mail {
    /// All values that can't be used.
    pub(super) fn problems(&self, base_url: Option<&str>) -> Vec<Error> {
        let Some(server) = &self.server else { return Vec::new() };
        let mut problems = Vec::new();
        match ServerAddress::parse(server) {
            None => problems.push(Error::MailServer),
            Some(address) => {
                let has_password = self.password.is_some() || self.password_file.is_some();
                if address.user.is_some() != has_password {
                    problems.push(Error::MailLogin);
                }
            }
        }
        if self.sender().is_none() {
            problems.push(Error::MailSender);
        }
        if base_url.is_none() {
            problems.push(Error::MailBaseUrl);
        }
        problems
    }

    /// The sender, if it is valid.
    pub(crate) fn sender(&self) -> Option<Mailbox> {
        self.from.as_deref()?.parse().ok()
    }
}

impl ServerAddress {
    /// `None` if it is no address of a mail server, or has a password in it.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A user's name may be an e-mail address.
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user.replace("%40", "@")), place),
            None => (None, rest),
        };
        if user.as_deref().is_some_and(|user| user.is_empty() || user.contains(':')) {
            return None;
        }
        let (host, port) = split_port(place)?;
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let (security, default_port) = match scheme {
            "smtps" => (Security::Tls, TLS_PORT),
            "smtp" if is_loopback => (Security::Plain, PLAIN_PORT),
            "smtp" => (Security::StartTls, STARTTLS_PORT),
            _ => return None,
        };
        Some(Self { user, host, port: port.unwrap_or(default_port), security })
    }
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn split_port(place: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<IpAddr>().ok()?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    if host.is_empty() || !host.chars().all(is_allowed) {
        return None;
    }
    let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|port| *port > 0)?) };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_goes_to_this_machine_only() {
        for (url, user, host, port, security) in [
            ("smtps://mail.example.org", None, "mail.example.org", 465, Security::Tls),
            (
                "smtps://a@example.org@mail.example.org:1465/",
                Some("a@example.org"),
                "mail.example.org",
                1465,
                Security::Tls,
            ),
            (
                "smtp://a%40example.org@mail.example.org",
                Some("a@example.org"),
                "mail.example.org",
                587,
                Security::StartTls,
            ),
            // A name may lead elsewhere.
            ("smtp://localhost:25", None, "localhost", 25, Security::StartTls),
            ("smtp://192.0.2.1:25", None, "192.0.2.1", 25, Security::StartTls),
            ("smtp://127.0.0.1", None, "127.0.0.1", 25, Security::Plain),
            ("smtp://[::1]:2525", None, "::1", 2525, Security::Plain),
        ] {
            let expected =
                ServerAddress { user: user.map(str::to_owned), host: host.to_owned(), port, security };
            assert_eq!(ServerAddress::parse(url), Some(expected), "{url}");
        }
        for bad in [
            "",
            "mail.example.org",
            "http://mail.example.org",
            "smtp://",
            "smtp://:25",
            "smtp://host:0",
            "smtp://host:x",
            "smtp://host:25:26",
            "smtp://[::1",
            "smtp://[x]:25",
            "smtps://user:password@host",
            "smtps://@host",
            "smtps://ho st",
        ] {
            assert_eq!(ServerAddress::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn settings_fit_each_other() {
        let mail = |change: fn(&mut Mail)| {
            let mut mail = Mail {
                server: Some("smtps://user@mail.example.org".into()),
                password: Some("hunter2".into()),
                from: Some("memgate <noreply@example.org>".into()),
                ..Mail::default()
            };
            change(&mut mail);
            mail
        };
        let count = |change: fn(&mut Mail)| mail(change).problems(Some("https://x.example")).len();
        assert_eq!(count(|_| {}), 0);
        assert_eq!(count(|mail| mail.password = None), 1);
        assert_eq!(
            count(|mail| mail.server = Some("smtps://mail.example.org".into())),
            1,
            "a password for no user"
        );
        assert_eq!(count(|mail| mail.from = Some("nobody".into())), 1);
        assert_eq!(count(|mail| *mail = Mail { server: Some("x".into()), ..Mail::default() }), 2);
        assert_eq!(count(|mail| mail.server = None), 0, "not used");
        assert_eq!(mail(|_| {}).problems(None).len(), 1);
        assert!(!format!("{:?}", mail(|_| {})).contains("hunter2"));
    }
}
