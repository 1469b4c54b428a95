//! The allowed targets: loopback, this machine's private addresses, and containers on its bridges.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use crate::error::LoadError;

/// Rejects a target that isn't on this machine.
pub(crate) fn check(target: SocketAddr) -> Result<(), LoadError> {
    let ip = target.ip();
    if ip.is_loopback() || (is_private(ip) && (is_local(ip) || is_on_a_bridge(ip))) {
        return Ok(());
    }
    Err(LoadError::new(
        format!("{target} is not on this machine"),
        "name a loopback address, or a private one of this machine or of a container on it",
    ))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Only this machine's addresses can be bound.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn is_on_a_bridge(ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    interface(&routes, ip).is_some_and(|name| Path::new("/sys/class/net").join(name).join("bridge").is_dir())
}

/// The interface of the longest route to `ip`, unless that route has a gateway.
fn interface(routes: &str, ip: Ipv4Addr) -> Option<&str> {
    let address = u32::from(ip);
    let parse = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    let matching = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, network) = (fields.first()?, parse(fields.get(1)?)?);
        let (gateway, mask) = (parse(fields.get(2)?)?, parse(fields.get(7)?)?);
        (address & mask == network).then_some((mask, gateway, *name))
    });
    let (_, gateway, name) = matching.max_by_key(|(mask, ..)| *mask)?;
    (gateway == 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_on_this_machine_are_allowed() {
        for (target, allowed) in [
            ("127.0.0.1:11211", true),
            ("127.9.9.9:1", true),
            ("[::1]:11211", true),
            ("0.0.0.0:11211", false),
            ("8.8.8.8:11211", false),
            ("[2001:db8::1]:11211", false),
            ("169.254.169.254:80", false),
        ] {
            assert_eq!(check(target.parse().unwrap()).is_ok(), allowed, "{target}");
        }
    }

    #[test]
    fn the_longest_route_is_used() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      eth0 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n\
                      mgx-1 0000D50A 00000000 0001 0 0 0 00FCFFFF 0 0 0\n";
        assert_eq!(interface(routes, Ipv4Addr::new(10, 213, 3, 4)), Some("mgx-1"));
        assert_eq!(interface(routes, Ipv4Addr::new(10, 213, 4, 4)), None);
        assert_eq!(interface(routes, Ipv4Addr::new(192, 168, 0, 1)), None);
    }
}
