//! Subnets taken from the configured pool, without those that the host or Docker use. No I/O.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The prefix of each network.
const PREFIX: u8 = store::NETWORK_PREFIX;
/// Addresses leased on one network.
const LEASED_MAX: u32 = 1_000;
/// The last 16 addresses, of which none is leased.
const UNLEASED_PREFIX: u8 = 28;

/// An IPv4 network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The network that `address` is in.
    pub(crate) fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let mask = mask(self.prefix.min(other.prefix));
        self.base & mask == other.base & mask
    }

    /// Whether it can be a pool: at least one network fits.
    pub(crate) fn is_pool(&self) -> bool {
        (8..=PREFIX).contains(&self.prefix)
    }

    /// Whether all its addresses are private (RFC 1918): the proxy connects to no other.
    pub(crate) fn is_private(&self) -> bool {
        let last = self.base | !mask(self.prefix);
        Ipv4Addr::from(self.base).is_private() && Ipv4Addr::from(last).is_private()
    }

    /// Whether it is one of the networks of a pool.
    pub(crate) fn is_network_of(&self, pool: &Self) -> bool {
        pool.is_pool() && self.prefix == PREFIX && self.overlaps(pool)
    }

    /// The networks of this pool that overlap with nothing in `used`, lowest first.
    pub(crate) fn free<'a>(&self, used: &'a [Self]) -> impl Iterator<Item = Self> + use<'a> {
        let count = if self.is_pool() { 1_u32 << (PREFIX - self.prefix) } else { 0 };
        let base = self.base;
        (0..count)
            .map(move |n| Self { base: base | (n << (32 - PREFIX)), prefix: PREFIX })
            .filter(|subnet| !used.iter().any(|u| u.overlaps(subnet)))
    }

    /// The host's address: the first.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base.saturating_add(1))
    }

    /// The addresses for containers, after the gateway.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (2..LEASED_MAX + 2).map(|n| Ipv4Addr::from(self.base.saturating_add(n)).to_string()).collect()
    }
}

impl Subnet {
    /// A part of the network that is never leased to an instance.
    pub(crate) fn unleased(&self) -> Self {
        Self { base: self.base | (!mask(self.prefix) & mask(UNLEASED_PREFIX)), prefix: UNLEASED_PREFIX }
    }

    pub(crate) fn contains(&self, address: &str) -> bool {
        address.parse().is_ok_and(|address| self.overlaps(&Self::of(address, 32)))
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let prefix = prefix.parse().ok().filter(|p| *p <= 32).ok_or(())?;
        Ok(Self::of(address.parse().map_err(|_| ())?, prefix))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// The networks in `/proc/net/route` (see proc(5)), without the default route, which overlaps with all.
pub(crate) fn routes(table: &str) -> Vec<Subnet> {
    let hex = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::from_be);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let base = hex(fields.next())?;
            let mask = hex(fields.nth(5))?;
            let prefix = u8::try_from(mask.leading_ones()).ok()?;
            (mask != 0).then_some(Subnet::of(Ipv4Addr::from(base), prefix))
        })
        .collect()
}

/// Whether a bridge is up and has its address: then the kernel's routing table (see [`routes`]) leads the subnet to it.
pub(crate) fn leads_to(table: &str, subnet: &Subnet, bridge: &str) -> bool {
    let (header, lines) = table.split_once('\n').unwrap_or_default();
    let own = lines.lines().filter(|line| line.split_whitespace().next() == Some(bridge));
    own.map(|line| format!("{header}\n{line}")).any(|one| routes(&one).contains(subnet))
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn free_subnets_avoid_used_ones() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("10.0.0.0/21", &[], &["10.0.0.0/22", "10.0.4.0/22"]),
            ("10.0.0.0/21", &["10.0.0.0/22"], &["10.0.4.0/22"]),
            ("10.0.0.0/21", &["10.0.5.7/32"], &["10.0.0.0/22"]),
            ("10.0.0.0/21", &["10.0.0.0/8"], &[]),
            ("10.0.0.0/21", &["0.0.0.0/0"], &[]),
            ("10.0.0.0/22", &["10.0.4.0/24"], &["10.0.0.0/22"]),
            ("10.0.0.0/23", &[], &[]),
        ];
        for (pool, used, expected) in cases {
            let used: Vec<_> = used.iter().map(|u| subnet(u)).collect();
            let free: Vec<_> = subnet(pool).free(&used).map(|s| s.to_string()).collect();
            assert_eq!(free, *expected, "{pool} without {used:?}");
        }
    }

    #[test]
    fn a_thousand_addresses_without_the_gateway() {
        let subnet = subnet("10.213.4.0/22");
        let addresses = subnet.addresses();
        assert_eq!(subnet.gateway().to_string(), "10.213.4.1");
        assert_eq!((addresses.len(), addresses[0].as_str()), (1_000, "10.213.4.2"));
        assert_eq!(addresses[999], "10.213.7.233");
    }

    // F-21.
    #[test]
    fn unleased_addresses_are_never_leased() {
        let subnet = subnet("10.213.4.0/22");
        assert_eq!(subnet.unleased().to_string(), "10.213.7.240/28");
        assert!(subnet.addresses().iter().all(|address| !subnet.unleased().contains(address)));
        assert!(subnet.contains("10.213.7.240") && !subnet.contains("10.213.8.1") && !subnet.contains("x"));
    }

    // F-16.
    #[test]
    fn a_route_shows_that_a_bridge_is_up() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             mgabc234-0\t0004D50A\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n\
             eth0\t0008D50A\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n";
        assert!(leads_to(table, &subnet("10.213.4.0/22"), "mgabc234-0"));
        for (other, bridge) in [("10.213.8.0/22", "mgabc234-0"), ("10.213.4.0/22", "mgabc234-1")] {
            assert!(!leads_to(table, &subnet(other), bridge), "{other} {bridge}");
        }
        assert!(!leads_to("", &subnet("10.213.4.0/22"), "mgabc234-0"));
    }

    #[test]
    fn invalid_subnets_are_rejected() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/0", "10.0.0.0/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn private_pools_are_recognised() {
        for (text, is_private) in [
            ("10.0.0.0/8", true),
            ("172.16.0.0/12", true),
            ("172.16.0.0/11", false),
            ("192.168.0.0/15", false),
            ("203.0.0.0/16", false),
        ] {
            assert_eq!(subnet(text).is_private(), is_private, "{text}");
        }
    }

    #[test]
    fn kernel_routes_are_parsed() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
             eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(routes(table), [subnet("172.17.0.0/16"), subnet("192.0.2.0/24")]);
        assert_eq!(routes("garbage\nmore garbage"), []);
    }

    //
    #[test]
    fn networks_of_other_pools_are_recognised() {
        let pool: Subnet = "10.214.0.0/16".parse().unwrap();
        for (text, is_ours) in [
            ("10.214.4.0/22", true),
            ("10.214.0.0/16", false),
            ("10.214.4.0/24", false),
            ("10.215.0.0/22", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(text.parse::<Subnet>().unwrap().is_network_of(&pool), is_ours, "{text}");
        }
    }
}
