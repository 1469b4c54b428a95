//! Connections by source, network and region, in order of age: finds the oldest one of the most crowded network.
//!
//! Every operation takes logarithmic time. Pure: connections are numbers that increase with time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::transport::address::Prefixes;

/// A region is as crowded as a network that holds one in this many of its connections: one that holds a whole region has
/// few connections in each of its networks.
const REGION_WEIGHT: usize = 16;

/// A set of connections.
#[derive(Default)]
pub(super) struct Crowd {
    sources: Groups,
    networks: Groups,
    /// Number of connections by region.
    regions: HashMap<u128, usize>,
    ranking: BTreeSet<Rank>,
    /// The same ranks within each region.
    regional: BTreeSet<(u128, Rank)>,
    /// The regions by number of connections.
    ranked_regions: BTreeSet<(usize, u128)>,
}

/// A network's place in the order of eviction: the most connections, then the oldest one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    count: usize,
    oldest: Reverse<u64>,
}

/// Connections by group, in order of age.
#[derive(Default)]
struct Groups {
    members: BTreeSet<(u128, u64)>,
    counts: HashMap<u128, usize>,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.sources.members.len()
    }

    pub(super) fn insert(&mut self, place: Prefixes, number: u64) {
        self.update(place, |crowd| {
            crowd.sources.insert(place.source, number);
            crowd.networks.insert(place.network, number);
            *crowd.regions.entry(place.region).or_default() += 1;
        });
    }

    /// Removes a connection that was inserted with the same `place` and `number`.
    pub(super) fn remove(&mut self, place: Prefixes, number: u64) {
        self.update(place, |crowd| {
            crowd.sources.remove(place.source, number);
            crowd.networks.remove(place.network, number);
            decrement(&mut crowd.regions, place.region);
        });
    }

    pub(super) fn count_of_source(&self, place: Prefixes) -> usize {
        self.sources.count(place.source)
    }

    pub(super) fn count_of_network(&self, place: Prefixes) -> usize {
        self.networks.count(place.network)
    }

    pub(super) fn oldest_of_source(&self, place: Prefixes) -> Option<u64> {
        self.sources.oldest(place.source)
    }

    pub(super) fn oldest_of_network(&self, place: Prefixes) -> Option<u64> {
        self.networks.oldest(place.network)
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

    fn update(&mut self, place: Prefixes, change: impl FnOnce(&mut Self)) {
        if let Some(rank) = self.rank(place) {
            self.ranking.remove(&rank);
            self.regional.remove(&(place.region, rank));
        }
        if let Some(count) = self.regions.get(&place.region) {
            self.ranked_regions.remove(&(*count, place.region));
        }
        change(self);
        if let Some(rank) = self.rank(place) {
            self.ranking.insert(rank);
            self.regional.insert((place.region, rank));
        }
        if let Some(count) = self.regions.get(&place.region) {
            self.ranked_regions.insert((*count, place.region));
        }
    }

    /// The rank of a network; `None` without a connection.
    fn rank(&self, place: Prefixes) -> Option<Rank> {
        let oldest = Reverse(self.networks.oldest(place.network)?);
        Some(Rank { count: self.networks.count(place.network), oldest })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let groups = [&self.sources, &self.networks];
        groups.iter().all(|groups| groups.members.is_empty() && groups.counts.is_empty())
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

impl Groups {
    fn insert(&mut self, group: u128, number: u64) {
        if self.members.insert((group, number)) {
            *self.counts.entry(group).or_default() += 1;
        }
    }

    fn remove(&mut self, group: u128, number: u64) {
        if self.members.remove(&(group, number)) {
            decrement(&mut self.counts, group);
        }
    }

    fn count(&self, group: u128) -> usize {
        self.counts.get(&group).copied().unwrap_or(0)
    }

    fn oldest(&self, group: u128) -> Option<u64> {
        self.members.range((group, 0)..=(group, u64::MAX)).next().map(|(_, number)| *number)
    }
}

/// Removes a group's entry with its last connection, so that memory is bounded by the number of connections.
fn decrement(counts: &mut HashMap<u128, usize>, group: u128) {
    if let Some(count) = counts.get_mut(&group) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&group);
        }
    }
}
