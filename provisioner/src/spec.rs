//! How an instance's memcached is run: the plan's limits, checked, as arguments and container limits. No I/O.

use store::{CPU_WEIGHT_DEFAULT, CPU_WEIGHTS, Instance, InstanceMemory, RESIZE_MB_MIN};

/// memcached's user in the container: a number, since there is no /etc/passwd. As in Docker's official image.
pub(crate) const UID: u32 = 11211;
pub(crate) const GID: u32 = 11211;
/// The path of memcached in an image that is built here.
pub(crate) const MEMCACHED: &str = "/usr/bin/memcached";
/// Where the volume with the lane secret is mounted, and the file in it.
pub(crate) const LANE_DIR: &str = "/lane";
pub(crate) const LANE_FILE: &str = "auth";
/// Where the memory of a warm cache is mounted, and memcached's `-e`, the file in it.
pub(crate) const MEMORY_DIR: &str = "/memory";
pub(crate) const MEMORY_FILE: &str = "items";
/// memcached's port, in the container's own network.
pub(crate) const PORT: u16 = 11211;

const MIB: i64 = 1 << 20;
/// memcached's `-f` of a warm cache: how much larger the next size of items is. It begins with a page for each size, so in a
/// small memory fewer sizes leave more for those in use. It is the same for all of them, since memcached takes contents back
/// only with the sizes that they were stored with: so a cache keeps them however large it becomes.
const WARM_GROWTH_FACTOR: &str = "1.5";
/// Memory beyond `-m` on the volume of a warm cache: what memcached writes of itself when it stops has less than a page.
const MEMORY_VOLUME_SPARE_MB: i64 = 1;
const MEMORY_MB_RANGE: std::ops::RangeInclusive<i64> = 1..=1 << 20;
/// Bytes.
const ITEM_SIZE_MIN: i64 = 1 << 10;
const ITEM_SIZE_MAX: i64 = 1 << 30;

/// The memcached of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    memory_mb: i64,
    connections: i64,
    item_size_max: i64,
    /// Whether its contents are kept while it is stopped on purpose.
    warm: bool,
    /// No part of the label: it is changed in place.
    cpu_weight: i64,
}

impl Spec {
    /// Checks an instance's limits. The error is for the instance's owner.
    ///
    /// # Errors
    /// The limit that is out of range.
    pub(crate) fn of(instance: &Instance) -> Result<Self, &'static str> {
        if !MEMORY_MB_RANGE.contains(&instance.memory_mb) {
            return Err("memory must be 1 to 1048576 MB");
        }
        let item_size_max = ITEM_SIZE_MAX.min(instance.memory_mb.saturating_mul(MIB) / 2);
        if !(ITEM_SIZE_MIN..=item_size_max).contains(&instance.item_size_max) {
            return Err("the largest item must be 1 KB to half of the memory, at most 1 GB");
        }
        if instance.connections < 1 {
            return Err("connections must be at least 1");
        }
        let InstanceMemory { memory_mb, lanes, item_size_max } =
            InstanceMemory::new(instance.memory_mb, instance.connections, instance.item_size_max);
        // One out of range is no reason to stop a cache.
        let cpu_weight = instance.cpu_weight.clamp(*CPU_WEIGHTS.start(), *CPU_WEIGHTS.end());
        let warm = instance.warm && instance.memory_mb >= store::WARM_MB_MIN;
        Ok(Self { memory_mb, connections: lanes, item_size_max, warm, cpu_weight })
    }

    /// Whether a memcached that was started as `other` can be given this memory while it runs. Another container is
    /// needed for other connections or items, and for other memory if it is warm. Whether it is warm changes when it is
    /// started next.
    pub(crate) fn is_resize_of(&self, other: &Self) -> bool {
        let Self { memory_mb, connections, item_size_max, warm: _, cpu_weight: _ } = *self;
        let fits = memory_mb == other.memory_mb || memory_mb >= RESIZE_MB_MIN && !other.warm;
        fits && connections == other.connections && item_size_max == other.item_size_max
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.warm
    }

    /// Whether this memcached can start with what `other` had. With less memory it can't: its file has items anywhere.
    pub(crate) fn keeps_contents_of(&self, other: &Self) -> bool {
        self.warm
            && other.warm
            && self.memory_mb >= other.memory_mb
            && self.memory().item_size_argument() == other.memory().item_size_argument()
    }

    /// The size of the volume for the memory of a warm cache, in MiB.
    pub(crate) fn memory_volume_mb(&self) -> i64 {
        self.memory_mb.saturating_add(MEMORY_VOLUME_SPARE_MB)
    }

    /// memcached's `-m`.
    pub(crate) fn memory_mb(&self) -> i64 {
        self.memory_mb
    }

    /// The value of the container's label. A container whose label differs from the desired one is replaced, unless it
    /// can be resized.
    pub(crate) fn label(&self) -> String {
        let Self { memory_mb, connections, item_size_max, warm, cpu_weight: _ } = self;
        let warm = if *warm { " warm" } else { "" };
        format!("memory={memory_mb} connections={connections} item={item_size_max}{warm}")
    }

    /// Reads a label. `None` if it isn't one of [`Spec::label`].
    pub(crate) fn from_label(label: &str) -> Option<Self> {
        let mut words = label.split(' ');
        let mut number = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        let spec = Self {
            memory_mb: number("memory")?,
            connections: number("connections")?,
            item_size_max: number("item")?,
            warm: words.next() == Some("warm"),
            cpu_weight: CPU_WEIGHT_DEFAULT,
        };
        (spec.label() == label && MEMORY_MB_RANGE.contains(&spec.memory_mb)).then_some(spec)
    }

    /// The share of the CPU while others want it too.
    pub(crate) fn cpu_weight(&self) -> i64 {
        self.cpu_weight
    }

    fn memory(&self) -> InstanceMemory {
        InstanceMemory {
            memory_mb: self.memory_mb,
            lanes: self.connections,
            item_size_max: self.item_size_max,
        }
    }

    /// memcached's arguments. `-Y` turns the binary protocol off; lanes use meta commands.
    pub(crate) fn arguments(&self, threads: u32) -> Vec<String> {
        let auth = format!("{LANE_DIR}/{LANE_FILE}");
        let memory = self.warm.then(|| ("-e", format!("{MEMORY_DIR}/{MEMORY_FILE}")));
        let sizes = self.warm.then(|| ("-f", WARM_GROWTH_FACTOR.to_owned()));
        [
            ("-U", "0".into()),
            ("-p", PORT.to_string()),
            ("-m", self.memory_mb.to_string()),
            ("-c", self.connections.to_string()),
            ("-I", self.memory().item_size_argument().to_string()),
            ("-t", threads.to_string()),
            // Requests of one connection per event: a lane carries the requests of many sessions.
            ("-R", "500".into()),
            ("-Y", auth),
        ]
        .into_iter()
        .chain(memory)
        .chain(sizes)
        .flat_map(|(flag, value): (&str, String)| [flag.to_owned(), value])
        .collect()
    }

    /// The container's memory limit in bytes.
    pub(crate) fn memory_limit(&self) -> i64 {
        self.memory().limit()
    }

    /// Bytes that memcached has at most while nothing is in transfer.
    pub(crate) fn settled_memory(&self) -> i64 {
        self.memory().settled()
    }

    /// The memory in MiB of a container like this one that has another limit.
    pub(crate) fn memory_mb_within(&self, limit: i64) -> i64 {
        self.memory().memory_mb_within(limit)
    }

    /// The limit of open files: connections, and memcached's own.
    pub(crate) fn open_files(&self) -> i64 {
        self.connections.saturating_add(64)
    }
}

/// Bytes of memcached's memory in a volume with this label of its size, like `65 MB`.
pub(crate) fn memory_bytes_of_volume(label: &str) -> Option<u64> {
    let volume_mb: i64 = label.strip_suffix(" MB")?.parse().ok()?;
    let memory_mb = volume_mb.checked_sub(MEMORY_VOLUME_SPARE_MB)?;
    u64::try_from(memory_mb.checked_mul(MIB)?).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_is_read_as_it_is_written() {
        let spec =
            Spec { memory_mb: 64, connections: 1024, item_size_max: 1 << 20, warm: false, cpu_weight: 100 };
        assert_eq!(Spec::from_label(&spec.label()), Some(spec));
        for label in
            ["", "memory=64", "memory=-1 connections=1 item=1024", "memory=1 connections=1 item=+1024"]
        {
            assert_eq!(Spec::from_label(label), None, "{label}");
        }
    }

    #[test]
    fn contents_are_kept_in_the_same_memory_or_more() {
        let item_size_max = 1 << 20;
        let spec = Spec { memory_mb: 128, connections: 1024, item_size_max, warm: true, cpu_weight: 100 };
        for memory_mb in [64, 127, 128] {
            assert!(spec.keeps_contents_of(&Spec { memory_mb, connections: 5, ..spec }), "{memory_mb}");
        }
        for other in [
            Spec { memory_mb: 129, ..spec },
            Spec { item_size_max: 2 << 20, ..spec },
            Spec { warm: false, ..spec },
        ] {
            assert!(!spec.keeps_contents_of(&other), "{other:?}");
        }
        assert!(!Spec { warm: false, ..spec }.keeps_contents_of(&spec));
        let sizes = |memory_mb| Spec { memory_mb, ..spec }.arguments(1).join(" ").contains("-f 1.5");
        assert!(sizes(64) && sizes(4096), "all have the same sizes of items");
        let label = format!("{} MB", spec.memory_volume_mb());
        assert_eq!(memory_bytes_of_volume(&label), Some(128 << 20));
        for bad in ["", "MB", "1 MB", "-5 MB", "x MB", "65", "9223372036854775807 MB"] {
            assert_eq!(memory_bytes_of_volume(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_memory_changes_while_it_runs() {
        let spec =
            Spec { memory_mb: 64, connections: 1024, item_size_max: 1 << 20, warm: false, cpu_weight: 100 };
        assert!(Spec { memory_mb: 128, ..spec }.is_resize_of(&spec));
        assert!(Spec { memory_mb: 8, cpu_weight: 7, ..spec }.is_resize_of(&spec));
        for other in [
            Spec { memory_mb: 7, ..spec },
            Spec { connections: 500, ..spec },
            Spec { item_size_max: 2 << 20, ..spec },
        ] {
            assert!(!other.is_resize_of(&spec), "{other:?}");
        }
        assert!(Spec { memory_mb: 4, ..spec }.is_resize_of(&Spec { memory_mb: 4, ..spec }), "the same");
        for memory_mb in [1, 8, 63, 64, 1000, 1 << 20] {
            let limit = Spec { memory_mb, ..spec }.memory_limit();
            assert_eq!(spec.memory_mb_within(limit), memory_mb);
            assert_eq!(spec.memory_mb_within(limit - 1), memory_mb - 1);
        }
        assert!(spec.memory_mb_within(1 << 20) < 1, "less than an empty memcached has");
    }
}
