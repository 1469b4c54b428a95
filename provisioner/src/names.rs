//! Names and labels of everything we make, all with the installation's id: adopt, repair and remove go by them.

use crate::Error;

/// The label that says "ours"; its value is the installation's id.
pub(crate) const LABEL: &str = "memgate";
/// Labels that only containers and volumes of instances have.
pub(crate) const LABEL_INSTANCE: &str = "memgate.instance";
pub(crate) const LABEL_GENERATION: &str = "memgate.generation";
pub(crate) const LABEL_ADDRESS: &str = "memgate.address";
pub(crate) const LABEL_SPEC: &str = "memgate.spec";
/// When it was made, in milliseconds since 1970: Docker writes its own times in three different forms.
pub(crate) const LABEL_CREATED: &str = "memgate.created";
/// The memcached package that an image was made from.
pub(crate) const LABEL_MEMCACHED: &str = "memgate.memcached";

/// Bridge names hold 15 characters: `mg`, the id, a dash and a number.
const ID_MAX: usize = 8;

/// One installation's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    id: String,
}

impl Names {
    /// Takes only what can stand in names, rules and labels without quoting.
    pub(crate) fn new(id: &str) -> Result<Self, Error> {
        let fits = (1..=ID_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits { Ok(Self { id: id.to_owned() }) } else { Err(Error::InstallationId(id.to_owned())) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Docker's filter for "ours".
    pub(crate) fn label_filter(&self) -> String {
        format!("{LABEL}={}", self.id)
    }

    /// What all our names in Docker begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("memgate-{}-", self.id)
    }

    /// An instance's container, and its volume.
    pub(crate) fn instance(&self, instance: &str) -> String {
        format!("{}{instance}", self.prefix())
    }

    pub(crate) fn network(&self, number: u32) -> String {
        format!("{}net-{number}", self.prefix())
    }

    pub(crate) fn bridge(&self, number: u32) -> String {
        format!("mg{}-{number}", self.id)
    }

    /// The number in a bridge's name, if it is one of ours.
    pub(crate) fn bridge_number(&self, bridge: &str) -> Option<u32> {
        bridge.strip_prefix("mg")?.strip_prefix(self.id.as_str())?.strip_prefix('-')?.parse().ok()
    }

    pub(crate) fn table(&self) -> String {
        format!("memgate_{}", self.id)
    }

    pub(crate) fn image(&self) -> String {
        format!("{}memcached", self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids() {
        for good in ["a", "abc234", "z2345678"] {
            assert!(Names::new(good).is_ok(), "{good}");
        }
        for bad in ["", "abcdefghi", "Abc", "a-b", "a\"b", "a b", "a{}", "ä"] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bridges_fit_and_are_told_apart() {
        let names = Names::new("abc234").unwrap();
        assert_eq!(names.bridge_number(&names.bridge(17)), Some(17));
        assert!(Names::new("abcdefgh").unwrap().bridge(9999).len() <= 15);
        for foreign in ["docker0", "mgabc23-1", "mgabc2345-1", "mgabc234-", "mgabc234-x"] {
            assert_eq!(names.bridge_number(foreign), None, "{foreign}");
        }
    }
}
