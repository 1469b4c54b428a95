//! Properties of addresses: private or public, and the network that counts as one source.

use std::net::{IpAddr, Ipv6Addr};

/// Whether the address is loopback, private or link-local: plaintext is accepted from there.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The source to which limits apply: an IPv4 address or an IPv6 /64, which is what one customer is assigned.
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// The networks that an address is in, as numbers; IPv4 is mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefixes {
    /// An IPv4 address or an IPv6 /64, as [`network`] says.
    pub(crate) source: u128,
    /// An IPv4 /24 or an IPv6 /48: what one site has.
    pub(crate) network: u128,
    /// An IPv4 /16 or an IPv6 /32: what one provider has.
    pub(crate) region: u128,
}

impl Prefixes {
    pub(crate) fn of(address: IpAddr) -> Self {
        let (bits, [source, network, region]) = match address.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), [128, 120, 112]),
            IpAddr::V6(v6) => (v6.to_bits(), [64, 48, 32]),
        };
        let prefix = |len: u32| bits & u128::MAX.unbounded_shl(128 - len);
        Self { source: prefix(source), network: prefix(network), region: prefix(region) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn private_addresses() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.1.1", true),
            ("169.254.1.1", true),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(text.parse().unwrap()), expected, "{text}");
        }
    }

    //
    #[test]
    fn prefixes_group_sites_and_providers() {
        let of = |text: &str| Prefixes::of(text.parse().unwrap());
        let same = |one: &str, other: &str| {
            let (one, other) = (of(one), of(other));
            [one.source == other.source, one.network == other.network, one.region == other.region]
        };
        assert_eq!(same("192.0.2.1", "::ffff:192.0.2.1"), [true; 3]);
        assert_eq!(same("192.0.2.1", "192.0.2.2"), [false, true, true]);
        assert_eq!(same("192.0.2.1", "192.0.3.1"), [false, false, true]);
        assert_eq!(same("192.0.2.1", "192.1.2.1"), [false; 3]);
        assert_eq!(same("2001:db8:1:2::1", "2001:db8:1:2:3::1"), [true; 3]);
        assert_eq!(same("2001:db8:1:2::1", "2001:db8:1:3::1"), [false, true, true]);
        assert_eq!(same("2001:db8:1:2::1", "2001:db8:2:2::1"), [false, false, true]);
        assert_eq!(same("2001:db8::1", "2001:db9::1"), [false; 3]);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
