//! Client address of a request, as the key of rate limits: an IPv4 address or an IPv6 /64.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use daemon::http::Peer;
use daemon::source::Source;

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
        let lines: Vec<&[u8]> =
            headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
        for forwarded in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            if !trusted.contains(&address) {
                break;
            }
            match parse(forwarded) {
                Some(forwarded) => address = forwarded.to_canonical(),
                None => break,
            }
        }
        Self(Source::of(address))
    }
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn parse(forwarded: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(forwarded.trim_ascii()).ok()?;
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = in_brackets.unwrap_or(text).parse().ok();
    address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // W-10.
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
            (proxy, &["gr\u{fc}n, 198.51.100.7"], "198.51.100.7"),
            (proxy, &["gr\u{fc}n", "198.51.100.7, 10.0.0.1"], "198.51.100.7"),
            (proxy, &["198.51.100.7, gr\u{fc}n"], proxy),
            (proxy, &["198.51.100.7:4711"], "198.51.100.7"),
            (proxy, &["[2001:db8:1:2::3]:4711"], "2001:db8:1:2::"),
            (proxy, &["[2001:db8:1:2::3]"], "2001:db8:1:2::"),
            (proxy, &["[::ffff:198.51.100.7]:1, 10.0.0.1:2"], "198.51.100.7"),
            (proxy, &["198.51.100.7:"], proxy),
            (proxy, &[], proxy),
            ("::ffff:203.0.113.9", &[], "203.0.113.9"),
            ("2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let client_ip = ClientIp::from_peer(peer.parse().unwrap(), &headers, &[proxy.parse().unwrap()]);
            assert_eq!(client_ip.0.to_string(), *expected, "{peer} {lines:?}");
        }
    }
}
