//! Bounded queue that serves networks in turn, and within a network its sources: one that sends much waits for itself.

use std::collections::VecDeque;

use daemon::source::{Network, Source};

/// Waiting entries of one source.
const PER_SOURCE_MAX: usize = 8;
/// Waiting entries of all sources.
const TOTAL_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// In the order of their turns; none is empty.
    networks: VecDeque<OfNetwork<T>>,
    length: usize,
}

/// Entries of one network.
#[derive(Debug)]
struct OfNetwork<T> {
    network: Network,
    /// In the order of their turns; none is empty.
    sources: VecDeque<OfSource<T>>,
}

/// Entries of one source.
#[derive(Debug)]
struct OfSource<T> {
    source: Source,
    entries: VecDeque<T>,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { networks: VecDeque::new(), length: 0 }
    }

    /// Adds an entry. Returns the entry for which there is no place: this one if its source has too many, or in a full
    /// queue the last of the network that has most.
    pub(super) fn push(&mut self, source: Source, entry: T) -> Option<T> {
        let network = source.network();
        let waiting = self.networks.iter().find(|waiting| waiting.network == network);
        if waiting.is_some_and(|waiting| waiting.length_of(source) >= PER_SOURCE_MAX) {
            return Some(entry);
        }
        let of_network = waiting.map_or(0, OfNetwork::length);
        let mut displaced = None;
        if self.length >= TOTAL_MAX {
            let fullest = self.networks.iter().map(OfNetwork::length).max().unwrap_or(0);
            if fullest <= of_network + 1 {
                return Some(entry);
            }
            displaced = self.pop_last_of(fullest);
        }
        match self.networks.iter_mut().find(|waiting| waiting.network == network) {
            Some(waiting) => waiting.push(source, entry),
            None => {
                let source = OfSource { source, entries: VecDeque::from([entry]) };
                self.networks.push_back(OfNetwork { network, sources: VecDeque::from([source]) });
            }
        }
        self.length += 1;
        displaced
    }

    /// The next entry.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut network = self.networks.pop_front()?;
        let mut source = network.sources.pop_front()?;
        let entry = source.entries.pop_front()?;
        if !source.entries.is_empty() {
            network.sources.push_back(source);
        }
        if !network.sources.is_empty() {
            self.networks.push_back(network);
        }
        self.length -= 1;
        Some(entry)
    }

    /// Removes the last entry of the largest source of a network with `length` entries.
    fn pop_last_of(&mut self, length: usize) -> Option<T> {
        let at = self.networks.iter().position(|network| network.length() == length)?;
        let network = self.networks.get_mut(at)?;
        let (largest, _) =
            network.sources.iter().enumerate().max_by_key(|(_, source)| source.entries.len())?;
        let source = network.sources.get_mut(largest)?;
        let entry = source.entries.pop_back()?;
        if source.entries.is_empty() {
            network.sources.remove(largest);
        }
        if network.sources.is_empty() {
            self.networks.remove(at);
        }
        self.length -= 1;
        Some(entry)
    }
}

impl<T> OfNetwork<T> {
    fn length(&self) -> usize {
        self.sources.iter().map(|source| source.entries.len()).sum()
    }

    fn length_of(&self, source: Source) -> usize {
        self.sources.iter().find(|waiting| waiting.source == source).map_or(0, |it| it.entries.len())
    }

    fn push(&mut self, source: Source, entry: T) {
        match self.sources.iter_mut().find(|waiting| waiting.source == source) {
            Some(waiting) => waiting.entries.push_back(entry),
            None => self.sources.push_back(OfSource { source, entries: VecDeque::from([entry]) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    fn drain<T>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    //
    #[test]
    fn networks_and_their_sources_take_turns() {
        let mut queue = FairQueue::new();
        for (source, entry) in [
            ("2001:db8:1:1::1", "a1"),
            ("2001:db8:1:1::2", "a2"),
            ("2001:db8:1:1::3", "a3"),
            ("2001:db8:1:2::1", "b1"),
            ("2001:db8:2:1::1", "c1"),
            ("203.0.113.9", "d1"),
        ] {
            assert!(queue.push(client(source), entry).is_none());
        }
        assert_eq!(drain(&mut queue), ["a1", "c1", "d1", "b1", "a2", "a3"]);
        assert_eq!(queue.length, 0);
    }

    //
    #[test]
    fn a_source_has_a_few_places_and_a_full_queue_makes_room_for_others() {
        let mut queue = FairQueue::new();
        let mut refused = 0;
        for entry in 0..1000 {
            let source = format!("198.51.{}.{}", entry % 2, entry / 20 % 250);
            refused += usize::from(queue.push(client(&source), entry).is_some());
        }
        assert_eq!((queue.length, refused), (TOTAL_MAX, 1000 - TOTAL_MAX));
        let displaced = queue.push(client("203.0.113.9"), 5000);
        assert!(displaced.is_some_and(|entry| entry < 1000), "one of the flood goes");
        assert_eq!(queue.length, TOTAL_MAX);
        assert!(
            drain(&mut queue).iter().take(3).any(|entry| *entry == 5000),
            "the newcomer has an early turn"
        );
        for entry in 0..PER_SOURCE_MAX {
            assert_eq!(queue.push(client("203.0.113.9"), entry), None);
        }
        assert_eq!(queue.push(client("203.0.113.9"), 77), Some(77));
    }
}
