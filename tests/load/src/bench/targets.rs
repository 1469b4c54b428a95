//! The targets of a row: address, protocol, login, and the processes to measure.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::memgate::Logins;
use super::rows::Tls;
use super::testbed::Testbed;
use super::{Kind, Row};
use crate::cpu::Watched;
use crate::wire::Protocol;

pub(super) const LOOPBACK: &str = "loopback";
pub(super) const CONTAINER: &str = "container";

#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) backend: &'static str,
    pub(super) protocol: Protocol,
    address: SocketAddr,
    login: Option<(&'static str, PathBuf)>,
    tls: Option<(PathBuf, Tls)>,
    watched: Vec<Watched>,
}

/// The targets that can run this row.
pub(super) fn of(testbed: &Testbed, row: &Row) -> Vec<Target> {
    if row.kind == Kind::Users {
        let behind = Logins::LanesThroughPeer(testbed.addresses.haproxy_container);
        return vec![
            with_login(testbed, "direct", row.protocol, Logins::Lanes),
            memgate(testbed, row, Logins::Tokens),
            with_login(testbed, "haproxy", row.protocol, behind),
        ];
    }
    if row.tls != Tls::No {
        return tls_targets(testbed, row);
    }
    let mut all = Vec::new();
    // TCP proxies forward any protocol, so each target uses the one that memcached is fastest with.
    let best = match row.protocol {
        Protocol::Binary => Protocol::Binary,
        Protocol::Text if row.pipeline == 1 || matches!(row.kind, Kind::Open { .. }) => Protocol::Text,
        _ => Protocol::Meta,
    };
    let mut direct = vec![best];
    if row.pipeline > 1 && best == Protocol::Meta {
        direct.push(Protocol::Text);
    }
    let container = row.protocol != Protocol::Binary;
    for protocol in direct {
        if container {
            all.push(with_login(testbed, "direct", protocol, Logins::Lane));
        }
        all.push(plain(testbed, "direct", protocol));
    }
    all.push(memgate(testbed, row, Logins::Token));
    for name in ["haproxy", "nginx"] {
        if container {
            all.push(with_login(testbed, name, best, Logins::Lane));
        }
        all.push(plain(testbed, name, best));
    }
    // twemproxy supports the text protocol only, and no login.
    if row.protocol == Protocol::Text {
        all.push(plain(testbed, "twemproxy", Protocol::Text));
    }
    all
}

/// The targets with TLS, and direct access without.
fn tls_targets(testbed: &Testbed, row: &Row) -> Vec<Target> {
    let addresses = &testbed.addresses;
    let protocol = if row.pipeline == 1 { Protocol::Text } else { Protocol::Meta };
    let at = |target: Target, address| Target { address, ..target };
    let tls = |target| Target { tls: Some((testbed.memgate.ca(), row.tls)), ..target };
    let container = with_login(testbed, "haproxy", protocol, Logins::Lane);
    vec![
        with_login(testbed, "direct", protocol, Logins::Lane),
        tls(memgate(testbed, row, Logins::Token)),
        tls(at(container, addresses.haproxy_tls_container)),
        tls(at(plain(testbed, "haproxy", protocol), addresses.haproxy_tls)),
        tls(plain(testbed, "stunnel", protocol)),
    ]
}

/// A target in front of the memcached on loopback, which needs no login.
fn plain(testbed: &Testbed, name: &'static str, protocol: Protocol) -> Target {
    let addresses = &testbed.addresses;
    let address = match name {
        "haproxy" => addresses.haproxy,
        "nginx" => addresses.nginx,
        "twemproxy" => addresses.twemproxy,
        "stunnel" => addresses.stunnel,
        _ => addresses.direct,
    };
    let mut watched = testbed.watched("memcached", "memcached");
    watched.extend(testbed.watched("proxy", name));
    Target { name, backend: LOOPBACK, protocol, address, login: None, tls: None, watched }
}

/// A target in front of memgate's containers, with the lane's login.
fn with_login(testbed: &Testbed, name: &'static str, protocol: Protocol, logins: Logins) -> Target {
    let address = match name {
        "haproxy" => testbed.addresses.haproxy_container,
        "nginx" => testbed.addresses.nginx_container,
        _ => testbed.memgate.users[0].backend,
    };
    let mut watched = testbed.watched("memcached", "container");
    watched.extend(testbed.watched("proxy", name));
    let login = Some(("text", testbed.logins(logins)));
    Target { name, backend: CONTAINER, protocol, address, login, tls: None, watched }
}

fn memgate(testbed: &Testbed, row: &Row, logins: Logins) -> Target {
    let form = if row.protocol == Protocol::Binary { "sasl" } else { "text" };
    let mut watched = testbed.watched("memcached", "container");
    watched.extend(testbed.watched("proxy", "memgate"));
    Target {
        name: "memgate",
        backend: CONTAINER,
        protocol: row.protocol,
        address: testbed.memgate.endpoint(),
        login: Some((form, testbed.logins(logins))),
        tls: None,
        watched,
    }
}

impl Target {
    pub(super) fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The generator's arguments for this target.
    pub(super) fn arguments(&self) -> Vec<String> {
        let protocol = format!("{:?}", self.protocol).to_lowercase();
        let mut arguments = vec!["--target".into(), self.address.to_string(), "--protocol".into(), protocol];
        if let Some((form, path)) = &self.login {
            let path = path.display().to_string();
            arguments.extend(["--login".into(), (*form).into(), "--credentials".into(), path]);
        }
        if let Some((ca, tls)) = &self.tls {
            arguments.extend(["--tls".into(), ca.display().to_string()]);
            if *tls == Tls::Full {
                arguments.push("--no-resumption".into());
            }
        }
        for Watched { name, pid } in &self.watched {
            arguments.extend(["--watch".into(), format!("{name}={pid}")]);
        }
        arguments
    }
}
