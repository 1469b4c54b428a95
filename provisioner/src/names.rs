//! Names and labels of everything that is created in Docker, and what they prove: a resource belongs to the
//! installation if it carries the installation's label *and* exactly the name that follows from its labels.
//! Containers inherit the labels of their image, and images those of the container that they were committed
//! from, so a label alone proves nothing.

use std::collections::HashMap;

use crate::error::Error;

/// The label of every container, volume and network; its value is the installation's id. Images don't carry it.
pub(crate) const LABEL: &str = "memgate";
/// The label of images; its value is the installation's id.
pub(crate) const LABEL_IMAGE: &str = "memgate.image";
/// Labels of instances' containers and volumes.
pub(crate) const LABEL_INSTANCE: &str = "memgate.instance";
pub(crate) const LABEL_GENERATION: &str = "memgate.generation";
pub(crate) const LABEL_ADDRESS: &str = "memgate.address";
pub(crate) const LABEL_SPEC: &str = "memgate.spec";
/// The label of a container that was made before its instance.
pub(crate) const LABEL_AHEAD: &str = "memgate.ahead";
/// When a resource was created, in milliseconds since 1970. Docker's own times have three different formats.
pub(crate) const LABEL_CREATED: &str = "memgate.created";
/// The version of the memcached package that an image was built from.
pub(crate) const LABEL_MEMCACHED: &str = "memgate.memcached";

/// The name of a bridge has at most 15 characters: `mg`, the id, a dash and a number.
const ID_MAX: usize = 8;

const INSTANCE_ID_MAX: usize = 64;

/// Where the memory of a warm instance is: in one of two volumes, so that it can be copied to another one of a larger size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemorySlot {
    First,
    Second,
}

impl MemorySlot {
    pub(crate) const ALL: [Self; 2] = [Self::First, Self::Second];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::First => "",
            Self::Second => "-2",
        }
    }
}

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

    /// The name of the container that keeps the memory of an instance while its memcached is stopped.
    pub(crate) fn holder(&self, instance: &str, slot: MemorySlot) -> String {
        format!("{}-holder{}", self.instance(instance), slot.suffix())
    }

    /// The name of the volume with an instance's memory, if that is kept.
    pub(crate) fn memory(&self, instance: &str, slot: MemorySlot) -> String {
        Self::memory_beside(&self.instance(instance), slot)
    }

    /// The same, for a container of this name.
    pub(crate) fn memory_beside(container: &str, slot: MemorySlot) -> String {
        format!("{container}-memory{}", slot.suffix())
    }

    pub(crate) fn network(&self, number: u32) -> String {
        format!("{}net-{number}", self.prefix())
    }

    pub(crate) fn bridge(&self, number: u32) -> String {
        format!("mg{}-{number}", self.id)
    }

    /// Whether a container or volume with this name and these labels is an instance's.
    pub(crate) fn owns_instance(&self, name: &str, labels: &HashMap<String, String>) -> bool {
        self.owns(name, labels, |instance| self.instance(instance))
    }

    /// Whether a container with this name and these labels keeps an instance's memory.
    pub(crate) fn owns_holder(&self, name: &str, labels: &HashMap<String, String>) -> bool {
        MemorySlot::ALL.iter().any(|slot| self.owns(name, labels, |instance| self.holder(instance, *slot)))
    }

    /// Whether a volume with this name and these labels is an instance's memory.
    pub(crate) fn owns_memory(&self, name: &str, labels: &HashMap<String, String>) -> bool {
        MemorySlot::ALL.iter().any(|slot| self.owns(name, labels, |instance| self.memory(instance, *slot)))
    }

    fn owns(&self, name: &str, labels: &HashMap<String, String>, of: impl Fn(&str) -> String) -> bool {
        let instance = labels.get(LABEL_INSTANCE).filter(|instance| !instance.is_empty());
        self.is_labelled(labels) && instance.is_some_and(|instance| name == of(instance))
    }

    /// Whether a network with this name and these labels is the installation's.
    pub(crate) fn owns_network(&self, name: &str, labels: &HashMap<String, String>) -> bool {
        self.is_labelled(labels) && self.is_network(name)
    }

    /// Whether the installation gives this name to a network.
    pub(crate) fn is_network(&self, name: &str) -> bool {
        let number = name.strip_prefix(&self.prefix()).and_then(|rest| rest.strip_prefix("net-"));
        number.and_then(|number| number.parse().ok()).is_some_and(|number| name == self.network(number))
    }

    /// Whether the labels or the name claim that a resource is the installation's.
    pub(crate) fn is_claimed(&self, name: &str, labels: &HashMap<String, String>) -> bool {
        self.is_labelled(labels) || name.starts_with(&self.prefix())
    }

    /// Whether the store's names of a network and its bridge are those that this installation gives. With SQLite a less
    /// privileged role may have written them.
    pub(crate) fn are_network(&self, name: &str, bridge: &str) -> bool {
        let number = self.bridge_number(bridge);
        number.is_some_and(|number| name == self.network(number) && bridge == self.bridge(number))
    }

    fn is_labelled(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(LABEL) == Some(&self.id)
    }

    /// The number in a bridge's name, if the bridge belongs to the installation.
    pub(crate) fn bridge_number(&self, bridge: &str) -> Option<u32> {
        bridge.strip_prefix("mg")?.strip_prefix(self.id.as_str())?.strip_prefix('-')?.parse().ok()
    }

    pub(crate) fn table(&self) -> String {
        format!("memgate_{}", self.id)
    }

    /// The repository of the images that are built here.
    pub(crate) fn image(&self) -> String {
        format!("{}memcached", self.prefix())
    }
}

/// Whether an instance's id can be part of a name in Docker and of a request's path. The store makes no others, but with
/// SQLite a less privileged role may write them.
pub(crate) fn is_instance_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= INSTANCE_ID_MAX
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
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

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    //
    #[test]
    fn label_and_exact_name_decide_together() {
        let names = Names::new("abc234").unwrap();
        let own = labels(&[(LABEL, "abc234"), (LABEL_INSTANCE, "one")]);
        assert!(names.owns_instance("memgate-abc234-one", &own));
        for other in ["memgate-abc234-two", "memgate-abc234-one2", "one", "debug", "memgate-abc235-one"] {
            assert!(!names.owns_instance(other, &own), "{other}");
        }
        for inherited in [
            labels(&[(LABEL_INSTANCE, "one")]),
            labels(&[(LABEL, "abc235"), (LABEL_INSTANCE, "one")]),
            labels(&[(LABEL, "abc234")]),
        ] {
            assert!(!names.owns_instance("memgate-abc234-one", &inherited), "{inherited:?}");
        }
        let unnamed = labels(&[(LABEL, "abc234"), (LABEL_INSTANCE, "")]);
        assert!(!names.owns_instance("memgate-abc234-", &unnamed));
    }

    //
    #[test]
    fn memory_and_its_holder_are_in_one_of_two_slots() {
        let names = Names::new("abc234").unwrap();
        let own = labels(&[(LABEL, "abc234"), (LABEL_INSTANCE, "one")]);
        for name in ["memgate-abc234-one-memory", "memgate-abc234-one-memory-2"] {
            assert!(names.owns_memory(name, &own) && !names.owns_holder(name, &own), "{name}");
        }
        for name in ["memgate-abc234-one-holder", "memgate-abc234-one-holder-2"] {
            assert!(names.owns_holder(name, &own) && !names.owns_memory(name, &own), "{name}");
        }
        for other in ["memgate-abc234-one-memory-3", "memgate-abc234-two-memory-2", "memgate-abc234-one"] {
            assert!(!names.owns_memory(other, &own), "{other}");
        }
        for slot in MemorySlot::ALL {
            assert_ne!(names.memory("one", slot), names.memory("one", slot.other()));
        }
    }

    //
    #[test]
    fn a_network_has_a_number() {
        let names = Names::new("abc234").unwrap();
        let own = labels(&[(LABEL, "abc234")]);
        assert!(names.owns_network(&names.network(0), &own) && names.owns_network(&names.network(12), &own));
        for other in ["net-0", "memgate-abc234-net-00", "memgate-abc234-net-+1", "memgate-abc234-net-", "x"] {
            assert!(!names.owns_network(other, &own), "{other}");
        }
        assert!(!names.owns_network(&names.network(0), &labels(&[])));
        assert!(names.is_claimed("x", &own) && names.is_claimed("memgate-abc234-x", &labels(&[])));
        assert!(!names.is_claimed("memgate-abc2345-x", &labels(&[])));
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

    //
    #[test]
    fn names_from_the_store_are_checked() {
        for bad in ["", "a/../../containers/b", "a b", "a?x", "A", "a-b", &"a".repeat(65)] {
            assert!(!is_instance_id(bad), "{bad}");
        }
        assert!(is_instance_id("abc234"));
        let names = Names::new("abc234").unwrap();
        assert!(names.are_network("memgate-abc234-net-7", "mgabc234-7"));
        for (name, bridge) in [
            ("host", "mgabc234-7"),
            ("memgate-abc234-net-8", "mgabc234-7"),
            ("memgate-abc234-net-7", "docker0"),
            ("memgate-abc234-net-07", "mgabc234-07"),
        ] {
            assert!(!names.are_network(name, bridge), "{name} {bridge}");
        }
    }
}
