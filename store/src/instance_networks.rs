//! Where instances can be: the networks that the provisioner makes for them. A route to anywhere else was written by
//! somebody else.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::NETWORK_PREFIX;

/// The pool of the provisioner's networks, IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceNetworks {
    base: u32,
    mask: u32,
}

/// The text is no IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("provisioner.subnets is invalid: give an IPv4 network of /8 to /22, such as 10.213.0.0/16")]
pub struct ParseInstanceNetworksError;

impl InstanceNetworks {
    /// Whether an instance can have this address: it is in the pool, and none of the addresses of its network that containers
    /// never get, which are the network's own, the host's and the broadcast address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else { return false };
        let (address, network) = (u32::from(address), mask(NETWORK_PREFIX));
        let host = address & !network;
        address & self.mask == self.base && host >= 2 && host != !network
    }
}

impl FromStr for InstanceNetworks {
    type Err = ParseInstanceNetworksError;

    fn from_str(text: &str) -> Result<Self, ParseInstanceNetworksError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok().filter(|prefix| (8..=22).contains(prefix))?;
            let mask = mask(prefix);
            Some(Self { base: u32::from(address) & mask, mask })
        };
        parse().ok_or(ParseInstanceNetworksError)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn only_addresses_of_instances_are_in_it() {
        let networks: InstanceNetworks = "10.213.0.0/16".parse().unwrap();
        for (address, is_inside) in [
            ("10.213.0.2", true),
            ("10.213.3.254", true),
            ("10.213.4.2", true),
            ("10.213.255.254", true),
            ("::ffff:10.213.0.2", true),
            ("10.213.0.0", false),
            ("10.213.0.1", false),
            ("10.213.4.1", false),
            ("10.213.3.255", false),
            ("10.213.255.255", false),
            ("10.212.255.2", false),
            ("10.214.0.2", false),
            ("192.168.1.2", false),
            ("127.0.0.2", false),
            ("169.254.169.254", false),
            ("fd00::2", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), is_inside, "{address}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/23", "10.0.0.0/7", "fd00::/8"] {
            assert!(text.parse::<InstanceNetworks>().is_err(), "{text}");
        }
    }
}
