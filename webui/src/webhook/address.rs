//! Which addresses webhooks may be sent to: public ones, and those that the operator allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use store::Cidr;

use crate::config::Webhooks;

/// Where webhooks may be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Destinations {
    /// What the operator allows, although it isn't public.
    allowed: Vec<Cidr>,
    /// What is refused although it is public or the operator allows it: networks of the operator's own, and of caches.
    refused: Vec<Cidr>,
}

/// Networks of IPv4 that aren't public (RFC 6890, IANA's registry of special-purpose addresses): base and prefix length.
const SPECIAL_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    // Link-local, where clouds have their metadata.
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Networks within 2000::/3 that aren't public, or lead to IPv4 addresses: IETF's (Teredo among them), documentation, 6to4, and
/// documentation again. Everything outside 2000::/3 is refused: loopback, mapped addresses, NAT64, local ones, multicast.
const SPECIAL_V6: [([u16; 2], u32); 4] =
    [([0x2001, 0], 23), ([0x2001, 0x0db8], 32), ([0x2002, 0], 16), ([0x3fff, 0], 20)];

impl Destinations {
    #[cfg(test)]
    pub(super) fn new(allowed: Vec<Cidr>) -> Self {
        Self { allowed, refused: Vec::new() }
    }

    /// Those of the settings.
    pub(crate) fn of(config: &Webhooks) -> Self {
        Self { allowed: config.allow_networks.clone(), refused: config.refuse_networks.clone() }
    }

    /// The same, without the networks of caches.
    pub(crate) fn without(mut self, refused: Vec<Cidr>) -> Self {
        self.refused.extend(refused);
        self
    }

    /// Whether the operator allows private receivers.
    pub(crate) fn has_private(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// Whether the operator allows an address, which may be private then.
    pub(super) fn allows_private(&self, address: IpAddr) -> bool {
        is_in(&self.allowed, address) && !is_in(&self.refused, address)
    }

    /// Whether an address may be sent to. An address of this machine is public to others only: behind a firewall it may lead to
    /// what they can't reach. The operator who allows a network doesn't mean the machine that is in it, unless its address is named.
    pub(super) fn admits(&self, address: SocketAddr) -> bool {
        let is_named = || self.allowed.iter().any(|network| network.is_only(address.ip()));
        self.admits_literal(address.ip()) && (is_named() || !is_own(address))
    }

    /// The same for an address in a URL, whatever machine it is.
    pub(super) fn admits_literal(&self, address: IpAddr) -> bool {
        !is_in(&self.refused, address) && (self.allows_private(address) || is_public(address))
    }
}

fn is_in(networks: &[Cidr], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Whether an address is one that the internet routes, and no way to an address that isn't.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !SPECIAL_V4.iter().any(|(base, prefix)| {
        let shift = 32 - prefix;
        bits >> shift == Ipv4Addr::from(*base).to_bits() >> shift
    })
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let is_global = bits >> 125 == 0b001;
    let is_special = SPECIAL_V6.iter().any(|([first, second], prefix)| {
        let shift = 128 - prefix;
        let base = Ipv6Addr::new(*first, *second, 0, 0, 0, 0, 0, 0).to_bits();
        bits >> shift == base >> shift
    });
    is_global && !is_special
}

/// Whether an address is one of this machine: the kernel would send from it. Nothing is sent to find out.
fn is_own(address: SocketAddr) -> bool {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let local = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    // Without a route nothing can be sent there, and the attempt to connect says so.
    local.is_ok_and(|local| local.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn admits(destinations: &Destinations, address: &str) -> bool {
        destinations.admits_literal(address.parse().unwrap())
    }

    // W-28.
    #[test]
    fn only_public_addresses_are_admitted() {
        let public = Destinations::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.213.7.99",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.7",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.8.8",
            "64:ff9b::127.0.0.1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::10.0.0.1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!admits(&public, address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(admits(&public, address), "{address}");
        }
    }

    // W-28.
    #[test]
    fn operators_allow_private_networks_but_not_those_of_caches() {
        let private = Destinations::new(vec![network("10.0.0.0/8"), network("127.0.0.1")]);
        let private = private.without(vec![network("10.213.0.0/16")]);
        for (address, admitted) in [
            ("10.1.2.3", true),
            ("10.213.7.99", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:10.213.7.99", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("169.254.169.254", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(admits(&private, address), admitted, "{address}");
        }
    }

    // W-28.
    #[test]
    fn addresses_of_this_machine_are_refused_unless_they_are_allowed() {
        let address: SocketAddr = "127.0.0.1:443".parse().unwrap();
        assert!(is_own(address));
        assert!(!Destinations::default().admits(address));
        assert!(
            !Destinations::new(vec![network("127.0.0.0/8")]).admits(address),
            "the machine is in the network"
        );
        assert!(Destinations::new(vec![network("127.0.0.1")]).admits(address), "it is named");
    }

    // W-28.
    #[test]
    fn operators_refuse_networks_that_look_public() {
        let config = Webhooks {
            allow_networks: vec![network("10.0.0.0/8")],
            refuse_networks: vec![
                network("2a00:1450:64::/96"),
                network("192.0.1.0/24"),
                network("10.9.0.0/16"),
            ],
            ..Webhooks::default()
        };
        let destinations = Destinations::of(&config);
        for (address, admitted) in [
            ("2a00:1450:64::7f00:1", false),
            ("2a00:1450::1", true),
            ("192.0.1.7", false),
            ("::ffff:192.0.1.7", false),
            ("10.9.0.1", false),
            ("10.8.0.1", true),
            ("8.8.8.8", true),
        ] {
            assert_eq!(admits(&destinations, address), admitted, "{address}");
        }
    }
}
