//! Who runs in a row: the target's address, protocol, login, and the processes to watch.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::product::Logins;
use super::rig::Rig;
use super::rows::Tls;
use super::{Kind, Row};
use crate::cpu::Watched;
use crate::wire::Protocol;

pub(super) const LOOPBACK: &str = "loopback";
pub(super) const CONTAINER: &str = "container";

#[derive(Debug, Clone)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) backend: &'static str,
    pub(super) protocol: Protocol,
    address: SocketAddr,
    login: Option<(&'static str, PathBuf)>,
    tls: Option<(PathBuf, Tls)>,
    watched: Vec<Watched>,
}

/// Everybody who can run this row.
pub(super) fn of(rig: &Rig, row: &Row) -> Vec<Contender> {
    if row.kind == Kind::Users {
        let behind = Logins::LanesBehind(rig.addresses.haproxy_container);
        return vec![
            behind_login(rig, "direct", row.protocol, Logins::Lanes),
            memgate(rig, row, Logins::Tokens),
            behind_login(rig, "haproxy", row.protocol, behind),
        ];
    }
    if row.tls != Tls::No {
        return secured(rig, row);
    }
    let mut all = Vec::new();
    // Bytes pass a TCP proxy as they are: each is asked in the protocol that memcached is best at.
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
            all.push(behind_login(rig, "direct", protocol, Logins::Lane));
        }
        all.push(plain(rig, "direct", protocol));
    }
    all.push(memgate(rig, row, Logins::Token));
    for name in ["haproxy", "nginx"] {
        if container {
            all.push(behind_login(rig, name, best, Logins::Lane));
        }
        all.push(plain(rig, name, best));
    }
    // It speaks text only, and has no login.
    if row.protocol == Protocol::Text {
        all.push(plain(rig, "twemproxy", Protocol::Text));
    }
    all
}

/// Who speaks TLS; and memcached asked directly, without.
fn secured(rig: &Rig, row: &Row) -> Vec<Contender> {
    let addresses = &rig.addresses;
    let protocol = if row.pipeline == 1 { Protocol::Text } else { Protocol::Meta };
    let at = |contender: Contender, address| Contender { address, ..contender };
    let tls = |contender| Contender { tls: Some((rig.product.ca(), row.tls)), ..contender };
    let container = behind_login(rig, "haproxy", protocol, Logins::Lane);
    vec![
        behind_login(rig, "direct", protocol, Logins::Lane),
        tls(memgate(rig, row, Logins::Token)),
        tls(at(container, addresses.haproxy_tls_container)),
        tls(at(plain(rig, "haproxy", protocol), addresses.haproxy_tls)),
        tls(plain(rig, "stunnel", protocol)),
    ]
}

/// In front of the memcached on loopback, which asks for no login.
fn plain(rig: &Rig, name: &'static str, protocol: Protocol) -> Contender {
    let addresses = &rig.addresses;
    let address = match name {
        "haproxy" => addresses.haproxy,
        "nginx" => addresses.nginx,
        "twemproxy" => addresses.twemproxy,
        "stunnel" => addresses.stunnel,
        _ => addresses.direct,
    };
    let mut watched = rig.watched("memcached", "memcached");
    watched.extend(rig.watched("proxy", name));
    Contender { name, backend: LOOPBACK, protocol, address, login: None, tls: None, watched }
}

/// In front of memgate's own containers, with the lane's login.
fn behind_login(rig: &Rig, name: &'static str, protocol: Protocol, logins: Logins) -> Contender {
    let address = match name {
        "haproxy" => rig.addresses.haproxy_container,
        "nginx" => rig.addresses.nginx_container,
        _ => rig.product.users[0].backend,
    };
    let mut watched = rig.watched("memcached", "container");
    watched.extend(rig.watched("proxy", name));
    let login = Some(("text", rig.logins(logins)));
    Contender { name, backend: CONTAINER, protocol, address, login, tls: None, watched }
}

fn memgate(rig: &Rig, row: &Row, logins: Logins) -> Contender {
    let form = if row.protocol == Protocol::Binary { "sasl" } else { "text" };
    let mut watched = rig.watched("memcached", "container");
    watched.extend(rig.watched("proxy", "memgate"));
    Contender {
        name: "memgate",
        backend: CONTAINER,
        protocol: row.protocol,
        address: rig.product.endpoint(),
        login: Some((form, rig.logins(logins))),
        tls: None,
        watched,
    }
}

impl Contender {
    pub(super) fn speaks_tls(&self) -> bool {
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
