//! How much memory the container of an instance may use: what the provisioner limits it to, and what the machine needs
//! for one more. Pure.

const MIB: i64 = 1 << 20;
/// memcached stores larger items in chunks of this many bytes, and refuses an `-I` that isn't a multiple of it.
const CHUNK_SIZE: i64 = 512 << 10;
/// Connections to one memcached. Sessions share lanes, so a plan's connections need few: the shared lanes of
/// each proxy, and a dedicated one for each session that transfers large values.
const LANES_MAX: i64 = 1_024;
/// Connections beside one dedicated lane per session: the shared lanes of several proxies.
const SHARED_LANES: i64 = 64;
/// A connection holds one or two buffers of 16 KiB.
const BYTES_PER_LANE: i64 = 32 << 10;
/// Memory beyond `-m` of an idle memcached: code, libraries, threads, the first hash table.
const BASE_MEMORY: i64 = 24 * MIB;

/// What the memory of a container depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceMemory {
    /// memcached's `-m`, in MiB.
    pub memory_mb: i64,
    /// Connections of proxies.
    pub lanes: i64,
    /// The largest item, in bytes.
    pub item_size_max: i64,
}

impl InstanceMemory {
    /// Of an instance with these limits.
    #[must_use]
    pub fn new(memory_mb: i64, connections: i64, item_size_max: i64) -> Self {
        let lanes = connections.saturating_add(SHARED_LANES).min(LANES_MAX);
        Self { memory_mb, lanes, item_size_max }
    }

    /// The container's memory limit in bytes: `-m`, and what that doesn't count. A quarter is for the hash
    /// table: 8 bytes per item of at least 64, twice while it grows. Then connections, and items in transfer.
    #[must_use]
    pub fn limit(&self) -> i64 {
        self.settled().saturating_add(self.transfer())
    }

    /// Bytes that memcached has at most while nothing is in transfer.
    #[must_use]
    pub fn settled(&self) -> i64 {
        let cache = self.memory_mb.saturating_mul(MIB);
        cache.saturating_add(cache / 4).saturating_add(BASE_MEMORY)
    }

    fn transfer(&self) -> i64 {
        let lanes = self.lanes.saturating_mul(BYTES_PER_LANE);
        lanes.saturating_add(self.item_size_argument().saturating_mul(4))
    }

    /// The memory in MiB of a container like this one that has another limit.
    #[must_use]
    pub fn memory_mb_within(&self, limit: i64) -> i64 {
        let cache = limit.saturating_sub(BASE_MEMORY).saturating_sub(self.transfer());
        (cache / 5).saturating_mul(4) / MIB
    }

    /// memcached's `-I`: the largest item, rounded up to whole chunks. The proxy enforces the exact limit.
    #[must_use]
    pub fn item_size_argument(&self) -> i64 {
        let chunks = self.item_size_max.saturating_add(CHUNK_SIZE - 1) / CHUNK_SIZE;
        chunks.saturating_mul(CHUNK_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_item_is_rounded_up_to_what_memcached_takes() {
        for (item_size_max, argument) in [
            (1 << 10, 512 << 10),
            (512 << 10, 512 << 10),
            ((512 << 10) + 1, 1 << 20),
            (1 << 20, 1 << 20),
            (1_500_000, 3 << 19),
            (1 << 30, 1 << 30),
        ] {
            let memory = InstanceMemory::new(4096, 1, item_size_max);
            assert_eq!(memory.item_size_argument(), argument, "{item_size_max}");
        }
    }

    // a row of the store may hold any numbers.
    #[test]
    fn any_limits_have_a_sum() {
        assert_eq!(InstanceMemory::new(64, 20_000, 1 << 20).limit(), 140 << 20);
        for of in [[i64::MAX; 3], [i64::MIN; 3], [1, -1, 0]] {
            let memory = InstanceMemory::new(of[0], of[1], of[2]);
            let _ = (memory.limit(), memory.memory_mb_within(i64::MIN));
        }
    }
}
