//! Networks that a token may be used from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network in CIDR form: `10.0.0.0/8`, `2001:db8::/32`. A plain address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

/// Why a text is not a network; messages say what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// Neither an address nor a network.
    #[error("{0} is no network: write it like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7")]
    Shape(String),
    /// The address has bits set after the prefix length: it isn't clear whether the network or the address is meant.
    #[error("{written} has bits set after the prefix length: write {net}, or {address} for that one address")]
    HostBits {
        /// As it was written.
        written: String,
        /// The network around it.
        net: IpNet,
        /// The address alone.
        address: IpAddr,
    },
    /// An IPv4-mapped IPv6 network such as `::ffff:10.0.0.0/104`, which would never match.
    #[error("{0} is an IPv4-mapped IPv6 network: write it as IPv4, like 10.0.0.0/8")]
    Mapped(String),
}

impl Cidr {
    /// Whether the network contains `address`. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether the network is `address` alone.
    #[must_use]
    pub fn is_only(&self, address: IpAddr) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len() && self.contains(address)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let text = text.trim();
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| ParseCidrError::Shape(text.to_owned()))?,
        };
        if net.trunc() != net {
            let written = text.to_owned();
            return Err(ParseCidrError::HostBits { written, net: net.trunc(), address: net.addr() });
        }
        match net {
            IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
                Err(ParseCidrError::Mapped(text.to_owned()))
            }
            net => Ok(Self(net)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_its_addresses_only() {
        for (net, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ] {
            let cidr: Cidr = net.parse().unwrap();
            assert_eq!(cidr.contains(address.parse().unwrap()), expected, "{address} in {net}");
            assert_eq!(
                cidr.is_only(address.parse().unwrap()),
                expected && !net.contains('/'),
                "{address} in {net}"
            );
        }
    }

    #[test]
    fn invalid_network_is_rejected() {
        for text in
            ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "::/129", "a", "10.0.0.0/8,::/0", "fe80::1%1"]
        {
            assert_eq!(text.parse::<Cidr>(), Err(ParseCidrError::Shape(text.into())), "{text}");
        }
        let error = "10.0.0.1/8".parse::<Cidr>().unwrap_err().to_string();
        assert!(error.contains("write 10.0.0.0/8, or 10.0.0.1 for"), "{error}");
        assert_eq!(
            "::ffff:10.0.0.0/104".parse::<Cidr>(),
            Err(ParseCidrError::Mapped("::ffff:10.0.0.0/104".into()))
        );
    }

    #[test]
    fn network_is_displayed_as_cidr() {
        for (text, written) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), ("::1", "::1/128")]
        {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), written);
        }
    }
}
