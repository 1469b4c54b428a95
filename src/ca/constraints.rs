//! The names that the certificate authority may vouch for: its name constraints. Pure.
//!
//! A thief of the authority's key can issue certificates for these names only: clients that trust `ca.pem` refuse
//! every other one.

use std::net::IpAddr;

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

/// Host names and addresses that an authority's certificate permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PermittedNames(Vec<String>);

impl PermittedNames {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// The names that a certificate in PEM permits. `None` if it isn't an authority for `public_key` (DER) with name
    /// constraints and an extended key usage: it is damaged, of another key, or of an earlier version.
    pub(super) fn of_certificate(pem: &str, public_key: &[u8]) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        if certificate.public_key().raw != public_key {
            return None;
        }
        let usage = certificate.extended_key_usage().ok()??.value;
        let constraints = certificate.name_constraints().ok()??.value;
        let subtrees = constraints.permitted_subtrees.as_ref()?;
        let names = subtrees.iter().filter_map(|subtree| match &subtree.base {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => single_address(bytes).map(|address| address.to_string()),
            _ => None,
        });
        (usage.server_auth && !usage.any).then(|| Self(names.collect()))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|permitted| permitted.eq_ignore_ascii_case(name))
    }

    /// As the certificate's extension. A host name permits the names below it too (RFC 5280, 4.2.1.10).
    pub(super) fn to_extension(&self) -> NameConstraints {
        let subtree = |name: &String| match name.parse::<IpAddr>() {
            Ok(ip @ IpAddr::V4(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, 32)),
            Ok(ip @ IpAddr::V6(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, 128)),
            Err(_) => GeneralSubtree::DnsName(name.clone()),
        };
        NameConstraints {
            permitted_subtrees: self.0.iter().map(subtree).collect(),
            excluded_subtrees: Vec::new(),
        }
    }
}

/// Whether every client can read the name in a certificate with name constraints: they refuse the whole
/// certificate if it has a name that isn't well-formed.
pub(super) fn is_well_formed(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}

/// The address of a subtree (address, then mask) that has exactly one.
fn single_address(bytes: &[u8]) -> Option<IpAddr> {
    let (address, mask) = bytes.split_at_checked(bytes.len() / 2)?;
    if mask.iter().any(|byte| *byte != 0xff) {
        return None;
    }
    let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_names_are_found() {
        for good in ["localhost", "127.0.0.1", "::1", "cache.example.org", "My_Host-1"] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in ["", ".", "host.", "-host", "a..b", "a b", "ü.example", "*.example.org"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
