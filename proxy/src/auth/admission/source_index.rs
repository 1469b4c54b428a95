//! Connections by source, network and region, in order of age: finds the oldest one of the most crowded network.
//!
//! Every operation takes logarithmic time. Pure: connections are numbers that increase with time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use daemon::source::{Network, Region, Source};

/// A region is as crowded as a network that holds one in this many of its connections: one that holds a whole region has
/// few connections in each of its networks.
const REGION_WEIGHT: usize = 16;

/// A set of connections.
#[derive(Default)]
pub(super) struct SourceIndex {
    sources: Groups<Source>,
    networks: Groups<Network>,
    /// Number of connections by region.
    regions: HashMap<Region, usize>,
    ranking: BTreeSet<Rank>,
    /// The same ranks within each region.
    regional: BTreeSet<(Region, Rank)>,
    /// The regions by number of connections.
    ranked_regions: BTreeSet<(usize, Region)>,
}

/// Where a network is in the order of eviction: the most connections, then the oldest one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    count: usize,
    oldest: Reverse<u64>,
}

/// Connections by group, in order of age.
struct Groups<G> {
    connections: BTreeSet<(G, u64)>,
    counts: HashMap<G, usize>,
}

impl SourceIndex {
    pub(super) fn len(&self) -> usize {
        self.sources.connections.len()
    }

    pub(super) fn insert(&mut self, source: Source, number: u64) {
        self.update(source, |index| {
            index.sources.insert(source, number);
            index.networks.insert(source.network(), number);
            *index.regions.entry(source.region()).or_default() += 1;
        });
    }

    /// Removes a connection that was inserted with the same `source` and `number`.
    pub(super) fn remove(&mut self, source: Source, number: u64) {
        self.update(source, |index| {
            index.sources.remove(source, number);
            index.networks.remove(source.network(), number);
            decrement(&mut index.regions, source.region());
        });
    }

    pub(super) fn count_of_source(&self, source: Source) -> usize {
        self.sources.count(source)
    }

    pub(super) fn count_of_network(&self, network: Network) -> usize {
        self.networks.count(network)
    }

    pub(super) fn oldest_of_source(&self, source: Source) -> Option<u64> {
        self.sources.oldest(source)
    }

    pub(super) fn oldest_of_network(&self, network: Network) -> Option<u64> {
        self.networks.oldest(network)
    }

    /// The oldest connection of the most crowded network; of several such networks, of the one that has the oldest.
    pub(super) fn oldest_of_most_crowded(&self) -> Option<u64> {
        let network = self.ranking.last()?;
        let (count, region) = *self.ranked_regions.last()?;
        if count <= network.count.saturating_mul(REGION_WEIGHT) {
            return Some(network.oldest.0);
        }
        let ranks = (region, Rank::MIN)..=(region, Rank::MAX);
        self.regional.range(ranks).next_back().map(|(_, rank)| rank.oldest.0)
    }

    /// Changes the set by a connection of `source`, and ranks its network and region again.
    fn update(&mut self, source: Source, change: impl FnOnce(&mut Self)) {
        let (network, region) = (source.network(), source.region());
        if let Some(rank) = self.rank(network) {
            self.ranking.remove(&rank);
            self.regional.remove(&(region, rank));
        }
        if let Some(count) = self.regions.get(&region) {
            self.ranked_regions.remove(&(*count, region));
        }
        change(self);
        if let Some(rank) = self.rank(network) {
            self.ranking.insert(rank);
            self.regional.insert((region, rank));
        }
        if let Some(count) = self.regions.get(&region) {
            self.ranked_regions.insert((*count, region));
        }
    }

    /// The rank of a network; `None` without a connection.
    fn rank(&self, network: Network) -> Option<Rank> {
        let oldest = Reverse(self.networks.oldest(network)?);
        Some(Rank { count: self.networks.count(network), oldest })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
            && self.networks.is_empty()
            && self.regions.is_empty()
            && self.ranking.is_empty()
            && self.regional.is_empty()
            && self.ranked_regions.is_empty()
    }
}

impl Rank {
    const MIN: Self = Self { count: 0, oldest: Reverse(u64::MAX) };
    const MAX: Self = Self { count: usize::MAX, oldest: Reverse(0) };
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self { connections: BTreeSet::new(), counts: HashMap::new() }
    }
}

impl<G: Copy + Ord + Hash> Groups<G> {
    fn insert(&mut self, group: G, number: u64) {
        if self.connections.insert((group, number)) {
            *self.counts.entry(group).or_default() += 1;
        }
    }

    fn remove(&mut self, group: G, number: u64) {
        if self.connections.remove(&(group, number)) {
            decrement(&mut self.counts, group);
        }
    }

    fn count(&self, group: G) -> usize {
        self.counts.get(&group).copied().unwrap_or(0)
    }

    fn oldest(&self, group: G) -> Option<u64> {
        self.connections.range((group, 0)..=(group, u64::MAX)).next().map(|(_, number)| *number)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.counts.is_empty()
    }
}

/// Removes a group's entry with its last connection, so that memory is bounded by the number of connections.
fn decrement<G: Eq + Hash>(counts: &mut HashMap<G, usize>, group: G) {
    if let Some(count) = counts.get_mut(&group) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&group);
        }
    }
}
