//! Where a request comes from, for the limits: an IPv4 address or an IPv6 /64.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::serve::Peer;
use crate::web::Web;

/// One customer of the network: whoever has an IPv6 /64 has 2^64 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromRequestParts<Arc<Web>> for Source {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Infallible> {
        // Without a peer (a test that calls the router itself) all requests share one source.
        let peer =
            parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        Ok(Self::of(peer, &parts.headers, &web.config.trusted_proxies))
    }
}

impl Source {
    /// The nearest address that isn't a trusted proxy's. What an untrusted peer claims is not read.
    fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> Self {
        let mut from = peer.to_canonical();
        let lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        for claimed in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !trusted.contains(&from) {
                break;
            }
            match claimed.trim().parse::<IpAddr>() {
                Ok(address) => from = address.to_canonical(),
                Err(_) => break,
            }
        }
        Self(network(from))
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
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
        for (peer, lines, wanted) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let source = Source::of(peer.parse().unwrap(), &headers, &[proxy.parse().unwrap()]);
            assert_eq!(source.0.to_string(), *wanted, "{peer} {lines:?}");
        }
    }
}
