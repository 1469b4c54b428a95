//! The section `[webui]` of memgate.toml, and what must be true of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::snippets::Endpoint;

/// The section `[webui]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the pages are served, without TLS: put a TLS proxy in front to reach them from elsewhere.
    pub listen: SocketAddr,
    /// The operator's port.
    pub health: SocketAddr,
    /// The proxy's `host:port` as users reach it: shown, and filled into the snippets.
    pub endpoint: String,
    /// The certificates, in PEM, that clients trust to speak TLS with the endpoint: anybody may have them.
    /// `memgate up` names those of its own authority.
    pub ca_certificate: Option<PathBuf>,
    /// The address that browsers use, without a path, if it differs from `listen`. With `https://` cookies
    /// are `Secure` and browsers are told to stay with TLS.
    pub base_url: Option<String>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The plan that newcomers get.
    pub plan: String,
    /// A session ends when it isn't used for so long.
    pub session_idle_seconds: u64,
    /// A session ends at this age.
    pub session_seconds: u64,
    /// How often somebody may do what costs or can be guessed.
    pub limits: Limits,
}

/// The section `[webui.limits]`. 0 refuses all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Attempts to sign in, per e-mail address and source.
    pub sign_ins_per_minute: usize,
    /// Sign-ups with valid fields, per source.
    pub sign_ups_per_hour: usize,
    /// New tokens, per user.
    pub tokens_per_hour: usize,
    /// Tokens that a user may have at one time.
    pub tokens_at_once: usize,
    /// Looks at who is connected, per user; and as many orders to end a connection.
    pub connections_per_minute: usize,
    /// Reports of leaked tokens, per source.
    pub leak_reports_per_minute: usize,
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
            plan: "default".into(),
            session_idle_seconds: 12 * 60 * 60,
            session_seconds: 7 * 24 * 60 * 60,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sign_ins_per_minute: 5,
            sign_ups_per_hour: 5,
            tokens_per_hour: 20,
            tokens_at_once: 50,
            connections_per_minute: 60,
            leak_reports_per_minute: 60,
        }
    }
}

impl Config {
    /// Whether browsers come over TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.base_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    pub(crate) fn session_idle(&self) -> Duration {
        Duration::from_secs(self.session_idle_seconds)
    }

    pub(crate) fn session_age(&self) -> Duration {
        Duration::from_secs(self.session_seconds)
    }

    /// The endpoint in its parts, if every setting makes sense.
    pub(crate) fn check(&self) -> Result<Endpoint, Error> {
        if let Some(url) = &self.base_url
            && !is_origin(url)
        {
            return Err(Error::BaseUrl(url.clone()));
        }
        Endpoint::parse(&self.endpoint).ok_or_else(|| Error::Endpoint(self.endpoint.clone()))
    }
}

/// `http(s)://host[:port]`, as browsers write an origin.
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
