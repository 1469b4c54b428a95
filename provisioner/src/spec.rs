//! What a memcached is made to: the plan's numbers, checked, as arguments and limits. No I/O.

use store::Instance;

/// Where the secret's volume is mounted, and the file in it.
pub(crate) const LANE_DIR: &str = "/lane";
pub(crate) const LANE_FILE: &str = "auth";
/// memcached's port, in the container's own network.
pub(crate) const PORT: u16 = 11211;

const MIB: i64 = 1 << 20;
const MEMORY_MB: std::ops::RangeInclusive<i64> = 1..=1 << 20;
const ITEM_MIN: i64 = 1 << 10;
const ITEM_MAX: i64 = 1 << 30;
/// Lanes are shared, so an instance has few connections whatever its plan: shared lanes of each proxy,
/// and one each for clients that move large values. Each may hold a 16 KiB buffer or two.
const LANES: i64 = 1_024;
/// The shared ones of a good many proxies, beside one for each client of a small plan.
const SHARED_LANES: i64 = 64;
const BYTES_PER_LANE: i64 = 32 << 10;
/// Threads: two keep up with a proxy, and are 2 MB cheaper than the default four.
const THREADS: u32 = 2;
/// What `-m` doesn't count, at rest: code, libraries, threads, the first hash table.
const BASE: i64 = 24 * MIB;

/// One instance's memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    memory_mb: i64,
    connections: i64,
    item_size_max: i64,
}

impl Spec {
    /// Checks what the store holds; the error is for the instance's owner.
    pub(crate) fn of(instance: &Instance) -> Result<Self, &'static str> {
        if !MEMORY_MB.contains(&instance.memory_mb) {
            return Err("its memory size can't be used: 1 to 1048576 MB");
        }
        let item_top = ITEM_MAX.min(instance.memory_mb.saturating_mul(MIB) / 2);
        if !(ITEM_MIN..=item_top).contains(&instance.item_size_max) {
            return Err("its largest item can't be used: 1 KB to half of its memory, 1 GB at most");
        }
        if instance.connections < 1 {
            return Err("its number of connections can't be used: at least 1");
        }
        Ok(Self {
            memory_mb: instance.memory_mb,
            connections: instance.connections.saturating_add(SHARED_LANES).min(LANES),
            item_size_max: instance.item_size_max,
        })
    }

    /// In a label on the container: when it differs from what is wanted, the container is replaced.
    pub(crate) fn label(&self) -> String {
        format!("memory={} connections={} item={}", self.memory_mb, self.connections, self.item_size_max)
    }

    /// memcached's arguments. `-Y` turns its binary protocol off: lanes speak meta.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let auth = format!("{LANE_DIR}/{LANE_FILE}");
        [
            ("-U", "0".into()),
            ("-p", PORT.to_string()),
            ("-m", self.memory_mb.to_string()),
            ("-c", self.connections.to_string()),
            ("-I", self.item_size_max.to_string()),
            ("-t", THREADS.to_string()),
            // Requests of one lane per turn: a lane carries many clients' at once.
            ("-R", "500".into()),
            ("-Y", auth),
        ]
        .into_iter()
        .flat_map(|(flag, value): (&str, String)| [flag.to_owned(), value])
        .collect()
    }

    /// The container's memory limit in bytes: `-m`, and what it doesn't count. An eighth is the hash table
    /// (8 bytes an item of 64 at least, the old and the new one while it grows), then items in flight.
    pub(crate) fn memory_limit(&self) -> i64 {
        let cache = self.memory_mb.saturating_mul(MIB);
        let lanes = self.connections.saturating_mul(BYTES_PER_LANE);
        let items = self.item_size_max.saturating_mul(4);
        cache.saturating_add(cache / 4).saturating_add(BASE).saturating_add(lanes).saturating_add(items)
    }

    /// Open files: lanes, and the few of memcached itself.
    pub(crate) fn open_files(&self) -> i64 {
        self.connections.saturating_add(64)
    }
}
