//! Client address of a request, as the key of rate limits: an IPv4 address or an IPv6 /64.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use daemon::http::Peer;
use daemon::http::source::Source;

use crate::state::AppState;

/// Source of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientIp(Source);

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromRequestParts<Arc<AppState>> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        // Only tests that call the router directly have no peer.
        let peer =
            parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        Ok(Self::from_peer(peer, &parts.headers, &app.config.trusted_proxies))
    }
}

impl ClientIp {
    pub(crate) fn source(self) -> Source {
        self.0
    }

    /// The nearest address that isn't a trusted proxy's. `X-Forwarded-For` counts only from trusted proxies.
    fn from_peer(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> Self {
        let mut address = peer.to_canonical();
        let lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        for forwarded in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !trusted.contains(&address) {
                break;
            }
            match forwarded.trim().parse::<IpAddr>() {
                Ok(forwarded) => address = forwarded.to_canonical(),
                Err(_) => break,
            }
        }
        Self(Source::of(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_forwarded_for_counts_only_from_trusted_proxies() {
        let proxy = "10.0.0.1";
        let cases: &[(&str, &[&str], &str)] = &[
            ("203.0.113.9", &[], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.7"], "203.0.113.9"),
            (proxy, &["198.51.100.7"], "198.51.100.7"),
            (proxy, &["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            (proxy, &["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            (proxy, &["198.51.100.7, 10.0.0.1"], "198.51.100.7"),
            (proxy, &["nonsense"], proxy),
            (proxy, &[], proxy),
            ("::ffff:203.0.113.9", &[], "203.0.113.9"),
            ("2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let client_ip = ClientIp::from_peer(peer.parse().unwrap(), &headers, &[proxy.parse().unwrap()]);
            assert_eq!(client_ip.0.to_string(), *expected, "{peer} {lines:?}");
        }
    }
}
