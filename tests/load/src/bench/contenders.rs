//! Who runs in a row: the target's address, dialect, login, and the processes to watch.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::product::Logins;
use super::rig::Rig;
use super::rows::Tls;
use super::{Kind, Row};
use crate::cpu::Watched;
use crate::wire::Dialect;

pub(super) const LOOPBACK: &str = "loopback";
pub(super) const CONTAINER: &str = "container";

#[derive(Debug, Clone)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) backend: &'static str,
    pub(super) dialect: Dialect,
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
            behind_login(rig, "direct", row.dialect, Logins::Lanes),
            memgate(rig, row, Logins::Tokens),
            behind_login(rig, "haproxy", row.dialect, behind),
        ];
    }
    if row.tls != Tls::No {
        return secured(rig, row);
    }
    let mut all = Vec::new();
    // Bytes pass a TCP proxy as they are: each is asked in the dialect that memcached is best at.
    let best = match row.dialect {
        Dialect::Binary => Dialect::Binary,
        Dialect::Text if row.pipeline == 1 || matches!(row.kind, Kind::Open { .. }) => Dialect::Text,
        _ => Dialect::Meta,
    };
    let mut direct = vec![best];
    if row.pipeline > 1 && best == Dialect::Meta {
        direct.push(Dialect::Text);
    }
    let container = row.dialect != Dialect::Binary;
    for dialect in direct {
        if container {
            all.push(behind_login(rig, "direct", dialect, Logins::Lane));
        }
        all.push(plain(rig, "direct", dialect));
    }
    all.push(memgate(rig, row, Logins::Token));
    for name in ["haproxy", "nginx"] {
        if container {
            all.push(behind_login(rig, name, best, Logins::Lane));
        }
        all.push(plain(rig, name, best));
    }
    // It speaks text only, and has no login.
    if row.dialect == Dialect::Text {
        all.push(plain(rig, "twemproxy", Dialect::Text));
    }
    all
}

/// Who speaks TLS; and memcached asked directly, without.
fn secured(rig: &Rig, row: &Row) -> Vec<Contender> {
    let addresses = &rig.addresses;
    let dialect = if row.pipeline == 1 { Dialect::Text } else { Dialect::Meta };
    let at = |contender: Contender, address| Contender { address, ..contender };
    let tls = |contender| Contender { tls: Some((rig.product.ca(), row.tls)), ..contender };
    let container = behind_login(rig, "haproxy", dialect, Logins::Lane);
    vec![
        behind_login(rig, "direct", dialect, Logins::Lane),
        tls(memgate(rig, row, Logins::Token)),
        tls(at(container, addresses.haproxy_tls_container)),
        tls(at(plain(rig, "haproxy", dialect), addresses.haproxy_tls)),
        tls(plain(rig, "stunnel", dialect)),
    ]
}

/// In front of the memcached on loopback, which asks for no login.
fn plain(rig: &Rig, name: &'static str, dialect: Dialect) -> Contender {
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
    Contender { name, backend: LOOPBACK, dialect, address, login: None, tls: None, watched }
}

/// In front of memgate's own containers, with the lane's login.
fn behind_login(rig: &Rig, name: &'static str, dialect: Dialect, logins: Logins) -> Contender {
    let address = match name {
        "haproxy" => rig.addresses.haproxy_container,
        "nginx" => rig.addresses.nginx_container,
        _ => rig.product.users[0].backend,
    };
    let mut watched = rig.watched("memcached", "container");
    watched.extend(rig.watched("proxy", name));
    let login = Some(("text", rig.logins(logins)));
    Contender { name, backend: CONTAINER, dialect, address, login, tls: None, watched }
}

fn memgate(rig: &Rig, row: &Row, logins: Logins) -> Contender {
    let form = if row.dialect == Dialect::Binary { "sasl" } else { "text" };
    let mut watched = rig.watched("memcached", "container");
    watched.extend(rig.watched("proxy", "memgate"));
    Contender {
        name: "memgate",
        backend: CONTAINER,
        dialect: row.dialect,
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
        let dialect = format!("{:?}", self.dialect).to_lowercase();
        let mut arguments = vec!["--target".into(), self.address.to_string(), "--dialect".into(), dialect];
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
