//! Names and labels of everything that is created in Docker. All hold the installation's id, by which
//! resources are found, repaired and removed.

use crate::error::Error;

/// The label of every resource; its value is the installation's id.
pub(crate) const LABEL: &str = "memgate";
/// Labels of instances' containers and volumes.
pub(crate) const LABEL_INSTANCE: &str = "memgate.instance";
pub(crate) const LABEL_GENERATION: &str = "memgate.generation";
pub(crate) const LABEL_ADDRESS: &str = "memgate.address";
pub(crate) const LABEL_SPEC: &str = "memgate.spec";
/// When a resource was created, in milliseconds since 1970. Docker's own times have three different formats.
pub(crate) const LABEL_CREATED: &str = "memgate.created";
/// The version of the memcached package that an image was built from.
pub(crate) const LABEL_MEMCACHED: &str = "memgate.memcached";

/// The name of a bridge has at most 15 characters: `mg`, the id, a dash and a number.
const ID_MAX: usize = 8;

/// The names of one installation's resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    id: String,
}

impl Names {
    /// Accepts only ids that need no quoting in names, rules and labels.
    ///
    /// # Errors
    /// [`Error::InstallationId`] for any other id.
    pub(crate) fn new(id: &str) -> Result<Self, Error> {
        let fits = (1..=ID_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits { Ok(Self { id: id.to_owned() }) } else { Err(Error::InstallationId(id.to_owned())) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Docker's filter for the installation's resources.
    pub(crate) fn label_filter(&self) -> String {
        format!("{LABEL}={}", self.id)
    }

    /// The prefix of all names in Docker.
    pub(crate) fn prefix(&self) -> String {
        format!("memgate-{}-", self.id)
    }

    /// The name of an instance's container and of its volume.
    pub(crate) fn instance(&self, instance: &str) -> String {
        format!("{}{instance}", self.prefix())
    }

    pub(crate) fn network(&self, number: u32) -> String {
        format!("{}net-{number}", self.prefix())
    }

    pub(crate) fn bridge(&self, number: u32) -> String {
        format!("mg{}-{number}", self.id)
    }

    /// The number in a bridge's name, if the bridge belongs to the installation.
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
    fn installation_ids_are_plain() {
        for good in ["a", "abc234", "z2345678"] {
            assert!(Names::new(good).is_ok(), "{good}");
        }
        for bad in ["", "abcdefghi", "Abc", "a-b", "a\"b", "a b", "a{}", "ä"] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bridge_names_fit_and_are_distinguished() {
        let names = Names::new("abc234").unwrap();
        assert_eq!(names.bridge_number(&names.bridge(17)), Some(17));
        assert!(Names::new("abcdefgh").unwrap().bridge(9999).len() <= 15);
        for foreign in ["docker0", "mgabc23-1", "mgabc2345-1", "mgabc234-", "mgabc234-x"] {
            assert_eq!(names.bridge_number(foreign), None, "{foreign}");
        }
    }
}
