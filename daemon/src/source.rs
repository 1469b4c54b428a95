//! What counts as one peer, for limits: the source of an address, its network, and its region.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, or an IPv6 /64: one subscriber usually has all 2^64 addresses of a /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

/// An IPv4 address, or an IPv6 /56: what a provider gives one customer at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscriber(IpAddr);

/// An IPv4 /24 or an IPv6 /48: one customer often has that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

/// An IPv4 /16 or an IPv6 /32: one provider often has that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(IpAddr);

impl Source {
    /// The source that an address belongs to. An IPv4 address mapped into IPv6 is an IPv4 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(first_address(address.to_canonical(), 32, 64))
    }

    /// The customer that it belongs to.
    #[must_use]
    pub fn subscriber(self) -> Subscriber {
        Subscriber(first_address(self.0, 32, 56))
    }

    /// The network that it belongs to.
    #[must_use]
    pub fn network(self) -> Network {
        Network(first_address(self.0, 24, 48))
    }

    /// The region that it belongs to.
    #[must_use]
    pub fn region(self) -> Region {
        Region(first_address(self.0, 16, 32))
    }
}

impl Source {
    /// The region of a public address; `None` for private ones (loopback, link-local, shared by a provider's
    /// customers): all users of a company's network have the same.
    #[must_use]
    pub fn public_region(self) -> Option<Region> {
        let is_private = match self.0 {
            IpAddr::V4(v4) => {
                let is_shared = first_address(self.0, 10, 0) == IpAddr::from([100, 64, 0, 0]);
                v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared
            }
            IpAddr::V6(v6) => {
                // A source has no last 64 bits: `::1` is `::` here.
                v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local()
            }
        };
        (!is_private).then(|| self.region())
    }
}

impl From<Source> for Network {
    fn from(source: Source) -> Self {
        source.network()
    }
}

impl From<Source> for Region {
    fn from(source: Source) -> Self {
        source.region()
    }
}

/// Its first address.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first of the addresses that have the same prefix of so many bits, in IPv4 and IPv6.
fn first_address(address: IpAddr, v4_prefix: u32, v6_prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.unbounded_shl(32 - v4_prefix)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.unbounded_shl(128 - v6_prefix)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn addresses_are_grouped() {
        for (address, source, network, region) in [
            ("203.0.113.9", "203.0.113.9", "203.0.113.0", "203.0.0.0"),
            ("::ffff:203.0.113.9", "203.0.113.9", "203.0.113.0", "203.0.0.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::", "2001:db8::"),
            ("2001:db8:1:2::", "2001:db8:1:2::", "2001:db8:1::", "2001:db8::"),
        ] {
            let of = Source::of(address.parse().unwrap());
            assert_eq!(of.to_string(), source);
            assert_eq!(of.network(), Network(network.parse().unwrap()));
            assert_eq!(of.region(), Region(region.parse().unwrap()));
        }
        for (address, subscriber) in
            [("203.0.113.9", "203.0.113.9"), ("2001:db8:1:1234::5", "2001:db8:1:1200::")]
        {
            let of = Source::of(address.parse().unwrap());
            assert_eq!(of.subscriber(), Subscriber(subscriber.parse().unwrap()));
        }
    }

    #[test]
    fn private_addresses_have_no_public_region() {
        let region = |address: &str| Source::of(address.parse().unwrap()).public_region();
        for private in [
            "127.77.1.1",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.3.4",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "fd00::1",
            "fe80::1",
            "::ffff:10.1.2.3",
        ] {
            assert_eq!(region(private), None, "{private}");
        }
        for (public, first) in
            [("203.0.113.9", "203.0.0.0"), ("100.128.0.1", "100.128.0.0"), ("2001:db8:1::1", "2001:db8::")]
        {
            assert_eq!(region(public).unwrap().to_string(), first);
        }
    }

    //
    #[test]
    fn groups_are_as_wide_as_subscribers_sites_and_providers() {
        let same = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| Source::of(text.parse().unwrap()));
            [one == other, one.network() == other.network(), one.region() == other.region()]
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
}
