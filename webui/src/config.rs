//! The section `[webui]` of memgate.toml.

mod mail;
mod webhooks;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use identity::Email;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::view::endpoint::Endpoint;

pub use mail::Mail;
pub(crate) use mail::{Security, ServerAddress};
pub use webhooks::Webhooks;

/// The section `[webui]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the pages, without TLS. Put a TLS proxy in front before exposing them.
    pub listen: SocketAddr,
    /// Address of the health and metrics endpoint.
    pub health: SocketAddr,
    /// The proxy's `host:port` as users reach it: shown on pages and in snippets.
    pub endpoint: String,
    /// CA certificates (PEM) that clients trust to speak TLS with the endpoint. Public.
    /// `memgate up` sets it to its own CA.
    pub ca_certificate: Option<PathBuf>,
    /// Origin that browsers use, if it differs from `listen`. With `https://`, cookies are `Secure` and browsers are
    /// told to use TLS only (HSTS). The `Host` header is never used instead.
    pub base_url: Option<String>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpAddr>,
    /// Who may create an account: "open" for everybody, "domains" for addresses at `sign_up_domains`, "closed" for nobody;
    /// operators always do, with `memgate user add` and `memgate user invite`.
    pub sign_up: SignUp,
    /// The domains whose addresses may sign up, if `sign_up` is "domains": `["example.org"]`. Needs `confirm_email`, without which
    /// anybody could name such an address.
    pub sign_up_domains: Vec<String>,
    /// Whether an account is created only once its address is confirmed with a link. Needs `[webui.mail]`.
    pub confirm_email: bool,
    /// Plan of new accounts.
    pub plan: String,
    /// Whom pages tell users to ask where they can't go on by themselves: an e-mail address, an `https://` address or a name.
    pub contact: Option<String>,
    /// Sessions end after this time without use.
    pub session_idle_seconds: u64,
    /// Sessions end at this age.
    pub session_seconds: u64,
    /// Administrators who change something enter their password again, this long after they did last.
    pub admin_password_seconds: u64,
    /// Caches of a user whose plan doesn't say how many, from the section `[limits]`.
    #[serde(skip)]
    pub caches_per_user: usize,
    /// Limits of actions that are expensive or could be guessed.
    pub limits: Limits,
    /// How mail is sent.
    pub mail: Mail,
    /// Where users may have notifications sent.
    pub webhooks: Webhooks,
}

/// Who may create an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignUp {
    /// Every visitor.
    Open,
    /// Visitors with an address of certain domains.
    Domains,
    /// Operators only.
    Closed,
}

impl SignUp {
    /// As settings write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Domains => "domains",
            Self::Closed => "closed",
        }
    }
}

/// The section `[webui.limits]`. A limit of 0 rejects everything, if its text doesn't say otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Attempts to sign in, per e-mail address and client address.
    pub sign_ins_per_minute: usize,
    /// Attempts to sign in, per client address, whatever the e-mail address. Its network (IPv4 /24, IPv6 /48) may make
    /// ten times as many; the first five of an IPv4 address or IPv6 /56 are made even then.
    pub sign_ins_per_source_per_minute: usize,
    /// Sign-ups with valid fields, per client address. Its network may make ten times as many.
    pub sign_ups_per_hour: usize,
    /// Accounts created by sign-ups of all clients together; 0 for no limit.
    pub sign_ups_in_total_per_hour: usize,
    /// Accounts, those of `memgate user add` included: with this many, sign-up is closed. 0 for no limit.
    pub accounts: usize,
    /// Tokens, certificates and API keys issued and permissions changed, per user.
    pub tokens_per_hour: usize,
    /// Active tokens of a cache.
    pub tokens_at_once: usize,
    /// Caches created and deleted, and operations on them (restart, resize, ...), per user.
    pub cache_changes_per_hour: usize,
    /// Requests of one browser session, without those for assets; all of a user's may make twice as many.
    pub pages_per_minute: usize,
    /// Requests of the JSON API with one key; all of a user's may make twice as many.
    pub api_requests_per_minute: usize,
    /// Requests of the JSON API with keys that aren't valid, per client address. Its network (IPv4 /24, IPv6 /48) may make ten
    /// times as many.
    pub api_key_failures_per_minute: usize,
    /// Requests to list connections, and as many to close one, per user.
    pub connections_per_minute: usize,
    /// Reports of leaked tokens, per client address.
    pub leak_reports_per_minute: usize,
    /// Mails that visitors ask for, such as one to set a new password, per client address. Its network may ask for ten times as
    /// many.
    pub mail_requests_per_hour: usize,
    /// Mails of one kind to one address.
    pub mails_per_hour: usize,
    /// All mails together that visitors and users ask for: links for sign-up may be half of these, all others three quarters.
    /// Mails about caches and tokens may be half as many more. Those that tell users of changes to their accounts don't count.
    pub mails_in_total_per_hour: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9153)),
            endpoint: "127.0.0.1:11211".into(),
            ca_certificate: None,
            base_url: None,
            trusted_proxies: Vec::new(),
            sign_up: SignUp::Open,
            sign_up_domains: Vec::new(),
            confirm_email: false,
            plan: "default".into(),
            contact: None,
            session_idle_seconds: 12 * 60 * 60,
            session_seconds: 7 * 24 * 60 * 60,
            admin_password_seconds: 15 * 60,
            caches_per_user: 3,
            limits: Limits::default(),
            mail: Mail::default(),
            webhooks: Webhooks::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sign_ins_per_minute: 5,
            sign_ins_per_source_per_minute: 30,
            sign_ups_per_hour: 5,
            sign_ups_in_total_per_hour: 100,
            accounts: 1000,
            tokens_per_hour: 20,
            tokens_at_once: 50,
            cache_changes_per_hour: 60,
            pages_per_minute: 300,
            api_requests_per_minute: 300,
            api_key_failures_per_minute: 30,
            connections_per_minute: 60,
            leak_reports_per_minute: 60,
            mail_requests_per_hour: 10,
            mails_per_hour: 5,
            mails_in_total_per_hour: 200,
        }
    }
}

impl Limits {
    /// Sign-ups of all clients in an hour; `None` without a limit.
    pub(crate) fn sign_ups_in_total(&self) -> Option<usize> {
        Some(self.sign_ups_in_total_per_hour).filter(|max| *max > 0)
    }

    /// Accounts; `None` without a limit.
    pub(crate) fn accounts_max(&self) -> Option<usize> {
        Some(self.accounts).filter(|max| *max > 0)
    }
}

impl Config {
    /// Whether browsers use TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.base_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    pub(crate) fn session_idle(&self) -> Duration {
        Duration::from_secs(self.session_idle_seconds)
    }

    pub(crate) fn session_age(&self) -> Duration {
        Duration::from_secs(self.session_seconds)
    }

    pub(crate) fn admin_password_valid_for(&self) -> Duration {
        Duration::from_secs(self.admin_password_seconds)
    }

    /// All values that can't be used.
    #[must_use]
    pub fn problems(&self) -> Vec<Error> {
        let base_url = self.base_url.clone().filter(|url| !is_origin(url)).map(Error::BaseUrl);
        let mail = self.mail.problems(self.base_url.as_deref());
        let sign_up = self.sign_up_problem();
        base_url.into_iter().chain(self.endpoint().err()).chain(mail).chain(sign_up).collect()
    }

    fn sign_up_problem(&self) -> Option<Error> {
        let has_domains = self.sign_up == SignUp::Domains;
        let is_domain = |domain: &String| Email::parse(&format!("a@{domain}")).is_ok();
        if has_domains && (self.sign_up_domains.is_empty() || !self.sign_up_domains.iter().all(is_domain)) {
            return Some(Error::SignUpDomains);
        }
        if has_domains && !self.confirm_email {
            return Some(Error::UnconfirmedDomains);
        }
        (self.confirm_email && self.mail.server.is_none()).then_some(Error::ConfirmWithoutMail)
    }

    /// Whether somebody with this address may create an account.
    pub(crate) fn admits(&self, email: &Email) -> bool {
        let domain = email.as_str().rsplit('@').next().unwrap_or_default();
        match self.sign_up {
            SignUp::Open => true,
            SignUp::Closed => false,
            SignUp::Domains => {
                self.sign_up_domains.iter().any(|admitted| admitted.eq_ignore_ascii_case(domain))
            }
        }
    }

    /// Checks the settings and returns the endpoint.
    pub(crate) fn check(&self) -> Result<Endpoint, Error> {
        match self.problems().into_iter().next() {
            Some(problem) => Err(problem),
            None => self.endpoint(),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        Endpoint::parse(&self.endpoint).ok_or_else(|| Error::Endpoint(self.endpoint.clone()))
    }
}

/// `http(s)://host[:port]`, as browsers write origins.
fn is_origin(url: &str) -> bool {
    let Some(host) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return false;
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    !host.is_empty() && host.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    // W-20.
    #[test]
    fn addresses_of_other_domains_are_not_admitted() {
        let domains = vec!["Example.org".to_owned(), "x.example.com".to_owned()];
        let config = Config { sign_up: SignUp::Domains, sign_up_domains: domains, ..Config::default() };
        let admits = |config: &Config, email: &str| config.admits(&Email::parse(email).unwrap());
        assert!(admits(&config, "a@example.org") && admits(&config, "a@x.example.com"));
        for other in ["a@example.com", "a@sub.example.org", "a@notexample.org", "example.org@evil.example"] {
            assert!(!admits(&config, other), "{other}");
        }
        assert!(!admits(&Config { sign_up: SignUp::Closed, ..config.clone() }, "a@example.org"));
        assert!(matches!(config.sign_up_problem(), Some(Error::UnconfirmedDomains)));
        let confirmed = Config { confirm_email: true, ..config.clone() };
        assert!(matches!(confirmed.sign_up_problem(), Some(Error::ConfirmWithoutMail)));
        for bad in [vec![], vec!["@example.org".to_owned()], vec!["localhost".to_owned()]] {
            let config = Config { sign_up_domains: bad, ..confirmed.clone() };
            assert!(matches!(config.sign_up_problem(), Some(Error::SignUpDomains)));
        }
    }

    #[test]
    fn only_an_origin_is_a_base_url() {
        for good in ["https://cache.example.com", "http://10.0.0.1:8080", "https://[::1]:8443"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["", "https://", "cache.example.com", "https://x/", "https://X.example", "ftp://x"] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
