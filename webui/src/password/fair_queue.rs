//! Bounded queue that serves those first who seldom fail, and among them networks in turn, and within a network its
//! sources: one that sends much waits for itself.

use std::collections::VecDeque;

use daemon::source::{Network, Source};

/// Waiting entries of one source.
const PER_SOURCE_MAX: usize = 8;

/// Who goes first while many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// The account has been signed in to from the network before.
    Known,
    /// Few attempts of the network have failed lately.
    Unknown,
    /// Many attempts of the network have failed lately.
    Suspect,
}

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester {
    pub(crate) source: Source,
    pub(crate) priority: Priority,
}

#[derive(Debug)]
pub(super) struct FairQueue<T> {
    known: Class<T>,
    unknown: Class<T>,
    suspect: Class<T>,
    capacity: usize,
    /// Entries that had their turn.
    turns: usize,
}

/// Entries of one priority.
#[derive(Debug)]
struct Class<T> {
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
    pub(super) fn new(capacity: usize) -> Self {
        Self { known: Class::new(), unknown: Class::new(), suspect: Class::new(), capacity, turns: 0 }
    }

    /// Adds an entry. Returns the entry for which there is no place: this one if its source has too many; in a full
    /// queue the last of the network that has most, among those of the lowest priority.
    pub(super) fn push(&mut self, requester: Requester, entry: T) -> Option<T> {
        let Requester { source, priority } = requester;
        let of_source: usize = self.classes().map(|(_, class)| class.length_of_source(source)).sum();
        if of_source >= PER_SOURCE_MAX {
            return Some(entry);
        }
        let mut displaced = None;
        if self.len() >= self.capacity {
            let waiting = self.classes().filter(|(_, class)| class.length > 0);
            let Some((lowest, class)) = waiting.last() else { return Some(entry) };
            let may_displace = lowest > priority
                || lowest == priority && class.most() > class.length_of(source.network()) + 1;
            if !may_displace {
                return Some(entry);
            }
            displaced = self.class(lowest).pop_last_of_fullest();
        }
        self.class(priority).push(source, entry);
        displaced
    }

    /// The next entry: of the highest priority, but each lower one has one turn in four.
    pub(super) fn pop(&mut self) -> Option<T> {
        let Self { known, unknown, suspect, .. } = self;
        let order = match self.turns % 4 {
            2 => [unknown, known, suspect],
            3 => [suspect, known, unknown],
            _ => [known, unknown, suspect],
        };
        self.turns = self.turns.wrapping_add(1);
        order.into_iter().find_map(Class::pop)
    }

    fn len(&self) -> usize {
        self.classes().map(|(_, class)| class.length).sum()
    }

    /// From the highest priority to the lowest.
    fn classes(&self) -> impl Iterator<Item = (Priority, &Class<T>)> {
        [
            (Priority::Known, &self.known),
            (Priority::Unknown, &self.unknown),
            (Priority::Suspect, &self.suspect),
        ]
        .into_iter()
    }

    fn class(&mut self, priority: Priority) -> &mut Class<T> {
        match priority {
            Priority::Known => &mut self.known,
            Priority::Unknown => &mut self.unknown,
            Priority::Suspect => &mut self.suspect,
        }
    }
}

impl<T> Class<T> {
    fn new() -> Self {
        Self { networks: VecDeque::new(), length: 0 }
    }

    fn push(&mut self, source: Source, entry: T) {
        let network = source.network();
        match self.networks.iter_mut().find(|waiting| waiting.network == network) {
            Some(waiting) => waiting.push(source, entry),
            None => {
                let source = OfSource { source, entries: VecDeque::from([entry]) };
                self.networks.push_back(OfNetwork { network, sources: VecDeque::from([source]) });
            }
        }
        self.length += 1;
    }

    fn pop(&mut self) -> Option<T> {
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

    /// Removes the last entry of the largest source of the network that has most.
    fn pop_last_of_fullest(&mut self) -> Option<T> {
        let (at, _) = self.networks.iter().enumerate().max_by_key(|(_, network)| network.length())?;
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

    /// The entries of the network that has most.
    fn most(&self) -> usize {
        self.networks.iter().map(OfNetwork::length).max().unwrap_or(0)
    }

    fn length_of(&self, network: Network) -> usize {
        self.networks.iter().find(|waiting| waiting.network == network).map_or(0, OfNetwork::length)
    }

    fn length_of_source(&self, source: Source) -> usize {
        let network = self.networks.iter().find(|waiting| waiting.network == source.network());
        network.map_or(0, |network| network.length_of(source))
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

    const CAPACITY: usize = 256;

    fn unknown(address: &str) -> Requester {
        with(Priority::Unknown, address)
    }

    fn with(priority: Priority, address: &str) -> Requester {
        Requester { source: Source::of(address.parse().unwrap()), priority }
    }

    fn drain<T>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    //
    #[test]
    fn networks_and_their_sources_take_turns() {
        let mut queue = FairQueue::new(CAPACITY);
        for (source, entry) in [
            ("2001:db8:1:1::1", "a1"),
            ("2001:db8:1:1::2", "a2"),
            ("2001:db8:1:1::3", "a3"),
            ("2001:db8:1:2::1", "b1"),
            ("2001:db8:2:1::1", "c1"),
            ("203.0.113.9", "d1"),
        ] {
            assert!(queue.push(unknown(source), entry).is_none());
        }
        assert_eq!(drain(&mut queue), ["a1", "c1", "d1", "b1", "a2", "a3"]);
        assert_eq!(queue.len(), 0);
    }

    //
    #[test]
    fn a_source_has_a_few_places_and_a_full_queue_makes_room_for_others() {
        let mut queue = FairQueue::new(CAPACITY);
        let mut refused = 0;
        for entry in 0..1000 {
            let source = format!("198.51.{}.{}", entry % 2, entry / 20 % 250);
            refused += usize::from(queue.push(unknown(&source), entry).is_some());
        }
        assert_eq!((queue.len(), refused), (CAPACITY, 1000 - CAPACITY));
        let displaced = queue.push(unknown("203.0.113.9"), 5000);
        assert!(displaced.is_some_and(|entry| entry < 1000), "one of the flood goes");
        assert_eq!(queue.len(), CAPACITY);
        assert!(
            drain(&mut queue).iter().take(3).any(|entry| *entry == 5000),
            "the newcomer has an early turn"
        );
        for entry in 0..PER_SOURCE_MAX {
            assert_eq!(queue.push(unknown("203.0.113.9"), entry), None);
        }
        assert_eq!(queue.push(with(Priority::Known, "203.0.113.9"), 77), Some(77));
    }

    //
    #[test]
    fn known_ones_overtake_a_flood_from_many_networks_and_starve_no_one() {
        let mut queue = FairQueue::new(CAPACITY);
        for entry in 0..1000 {
            let source = format!("198.{}.{}.1", 18 + entry / 250, entry % 250);
            queue.push(with(Priority::Suspect, &source), "suspect");
        }
        assert_eq!(queue.push(with(Priority::Suspect, "203.0.113.9"), "one more"), Some("one more"));
        for entry in ["u1", "u2", "u3"] {
            assert_eq!(queue.push(unknown("203.0.113.9"), entry), Some("suspect"));
        }
        for entry in ["k1", "k2", "k3", "k4"] {
            assert_eq!(queue.push(with(Priority::Known, "192.0.2.9"), entry), Some("suspect"));
        }
        assert_eq!(queue.len(), CAPACITY);
        let order = drain(&mut queue);
        assert_eq!(
            order[..12],
            ["k1", "k2", "u1", "suspect", "k3", "k4", "u2", "suspect", "u3", "suspect", "suspect", "suspect"]
        );
    }

    //
    #[test]
    fn full_queue_of_known_ones_refuses_others() {
        let mut queue = FairQueue::new(2);
        assert_eq!(queue.push(with(Priority::Known, "192.0.2.1"), 1), None);
        assert_eq!(queue.push(with(Priority::Known, "192.0.2.1"), 2), None);
        assert_eq!(queue.push(unknown("203.0.113.9"), 3), Some(3));
    }
}
