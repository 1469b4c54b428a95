//! Bounded queue that serves those first who seldom fail, and among them regions in turn, within a region its networks,
//! and within a network its sources: one that sends much waits for itself.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::source::{Network, Region, Source};

/// Waiting entries of one source, unless set.
const PER_SOURCE_MAX: usize = 8;
/// Waiting entries of one source that are known: apart from the others, so that a neighbour behind the same address
/// doesn't take their places. Each account has a few attempts a minute only.
const KNOWN_PER_SOURCE_MAX: usize = 32;
/// Known ones leave one place in this many to others.
const OTHERS_SHARE: usize = 4;

/// Who goes first while many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// It has succeeded before, as far as is known.
    Known,
    /// Few of its network's attempts have failed lately.
    Unknown,
    /// Many of its network's attempts have failed lately.
    Suspect,
}

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub struct Requester {
    /// Where it comes from.
    pub source: Source,
    /// Whether it goes first.
    pub priority: Priority,
}

/// The entries that wait.
#[derive(Debug)]
pub struct FairQueue<T> {
    known: Class<T>,
    unknown: Class<T>,
    suspect: Class<T>,
    capacity: usize,
    per_source_max: usize,
    /// Entries that had their turn.
    turns: usize,
}

/// Entries of one priority.
type Class<T> = RoundRobin<Region, RoundRobin<Network, RoundRobin<Source, VecDeque<T>>>>;

/// Lines that take turns: one for each of the sources, networks or regions that wait.
#[derive(Debug)]
struct RoundRobin<K, L> {
    /// In the order of their turns; none is empty.
    lines: VecDeque<(K, L)>,
}

impl<T> FairQueue<T> {
    /// A queue for `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let per_source_max = PER_SOURCE_MAX;
        let [known, unknown, suspect] = [(); 3].map(|()| RoundRobin::new());
        Self { known, unknown, suspect, capacity, per_source_max, turns: 0 }
    }

    /// The same queue with up to `max` entries of one source.
    #[must_use]
    pub fn with_entries_per_source(self, max: usize) -> Self {
        Self { per_source_max: max, ..self }
    }

    /// Adds an entry. Returns the entry for which there is no place: this one if its source has too many; in a full
    /// queue the last of the region that has most, among those of the lowest priority, or within the entry's own region
    /// the last of the network or source that has most.
    pub fn push(&mut self, requester: Requester, entry: T) -> Option<T> {
        let Requester { source, priority } = requester;
        let is_known = priority == Priority::Known;
        let alike = self.classes().filter(|(class, _)| (*class == Priority::Known) == is_known);
        let of_source: usize = alike.map(|(_, class)| class.length_of(source)).sum();
        if of_source >= if is_known { KNOWN_PER_SOURCE_MAX } else { self.per_source_max } {
            return Some(entry);
        }
        let mut displaced = None;
        if self.len() >= self.capacity {
            displaced = self.make_room(requester);
            if displaced.is_none() {
                return Some(entry);
            }
        }
        self.class(priority).push(source, entry);
        displaced
    }

    /// Takes an entry out of a full queue for one of `requester`, if it is to go first.
    fn make_room(&mut self, Requester { source, priority }: Requester) -> Option<T> {
        let others = self.unknown.length() + self.suspect.length();
        let kept = self.capacity / OTHERS_SHARE;
        match priority {
            Priority::Known if others <= kept => return self.known.displace(source),
            Priority::Unknown | Priority::Suspect if others < kept => return self.known.pop_last(),
            _ => {}
        }
        let (lowest, _) = self.classes().filter(|(_, class)| class.length() > 0).last()?;
        match lowest.cmp(&priority) {
            Ordering::Greater => self.class(lowest).pop_last(),
            Ordering::Equal => self.class(lowest).displace(source),
            Ordering::Less => None,
        }
    }

    /// The next entry: of the highest priority, but each lower one has one turn in four.
    pub fn pop(&mut self) -> Option<T> {
        let Self { known, unknown, suspect, .. } = self;
        let order = match self.turns % 4 {
            2 => [unknown, known, suspect],
            3 => [suspect, known, unknown],
            _ => [known, unknown, suspect],
        };
        self.turns = self.turns.wrapping_add(1);
        order.into_iter().find_map(Line::pop)
    }

    /// Removes the entry of `requester` that `is_it`.
    pub fn remove(&mut self, requester: Requester, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.class(requester.priority).remove(requester.source, &is_it)
    }

    fn len(&self) -> usize {
        self.classes().map(|(_, class)| class.length()).sum()
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

/// Where entries wait.
trait Line {
    type Entry;

    fn new() -> Self;
    fn length(&self) -> usize;
    /// How many entries of a source wait.
    fn length_of(&self, source: Source) -> usize;
    fn push(&mut self, source: Source, entry: Self::Entry);
    /// The next entry.
    fn pop(&mut self) -> Option<Self::Entry>;
    /// Removes the last entry of the line that is longest.
    fn pop_last(&mut self) -> Option<Self::Entry>;
    /// Removes an entry for one of `source`, if that leaves another line no shorter than `source`'s own.
    fn displace(&mut self, source: Source) -> Option<Self::Entry>;
    /// Removes the entry of `source` that `is_it`.
    fn remove(&mut self, source: Source, is_it: &dyn Fn(&Self::Entry) -> bool) -> Option<Self::Entry>;
}

/// Entries of one source.
impl<T> Line for VecDeque<T> {
    type Entry = T;

    fn new() -> Self {
        Self::new()
    }

    fn length(&self) -> usize {
        self.len()
    }

    fn length_of(&self, _: Source) -> usize {
        self.len()
    }

    fn push(&mut self, _: Source, entry: T) {
        self.push_back(entry);
    }

    fn pop(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn pop_last(&mut self) -> Option<T> {
        self.pop_back()
    }

    fn displace(&mut self, _: Source) -> Option<T> {
        None
    }

    fn remove(&mut self, _: Source, is_it: &dyn Fn(&T) -> bool) -> Option<T> {
        let at = self.iter().position(is_it)?;
        VecDeque::remove(self, at)
    }
}

impl<K: Eq + From<Source>, L: Line> Line for RoundRobin<K, L> {
    type Entry = L::Entry;

    fn new() -> Self {
        Self { lines: VecDeque::new() }
    }

    fn length(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.length()).sum()
    }

    fn length_of(&self, source: Source) -> usize {
        self.line(source).map_or(0, |(_, line)| line.length_of(source))
    }

    fn push(&mut self, source: Source, entry: L::Entry) {
        let key = K::from(source);
        match self.lines.iter_mut().find(|(other, _)| *other == key) {
            Some((_, line)) => line.push(source, entry),
            None => {
                let mut line = L::new();
                line.push(source, entry);
                self.lines.push_back((key, line));
            }
        }
    }

    fn pop(&mut self) -> Option<L::Entry> {
        let (key, mut line) = self.lines.pop_front()?;
        let entry = line.pop();
        if line.length() > 0 {
            self.lines.push_back((key, line));
        }
        entry
    }

    fn pop_last(&mut self) -> Option<L::Entry> {
        let longest = self.lines.iter().enumerate().max_by_key(|(_, (_, line))| line.length());
        let (longest, _) = longest?;
        self.take_from(longest, L::pop_last)
    }

    fn displace(&mut self, source: Source) -> Option<L::Entry> {
        let own = self.line(source).map(|(at, line)| (at, line.length()));
        let longest = self.lines.iter().map(|(_, line)| line.length()).max().unwrap_or(0);
        if longest > own.map_or(0, |(_, length)| length) + 1 {
            return self.pop_last();
        }
        let (own, _) = own?;
        self.take_from(own, |line| line.displace(source))
    }

    fn remove(&mut self, source: Source, is_it: &dyn Fn(&L::Entry) -> bool) -> Option<L::Entry> {
        let (own, _) = self.line(source)?;
        self.take_from(own, |line| line.remove(source, is_it))
    }
}

impl<K: Eq + From<Source>, L: Line> RoundRobin<K, L> {
    /// The line of a source, with its place.
    fn line(&self, source: Source) -> Option<(usize, &L)> {
        let key = K::from(source);
        let mut lines = self.lines.iter().enumerate();
        lines.find_map(|(at, (other, line))| (*other == key).then_some((at, line)))
    }

    fn take_from(&mut self, at: usize, take: impl FnOnce(&mut L) -> Option<L::Entry>) -> Option<L::Entry> {
        let (_, line) = self.lines.get_mut(at)?;
        let entry = take(line);
        if line.length() == 0 {
            self.lines.remove(at);
        }
        entry
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
    fn regions_and_their_networks_and_their_sources_take_turns() {
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
        assert_eq!(drain(&mut queue), ["a1", "d1", "c1", "b1", "a2", "a3"]);
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
        assert_eq!(queue.push(unknown("203.0.113.9"), 77), Some(77));
        assert_eq!(queue.push(with(Priority::Suspect, "203.0.113.9"), 77), Some(77));
        for _ in 0..KNOWN_PER_SOURCE_MAX {
            let known = with(Priority::Known, "203.0.113.9");
            assert_eq!(queue.push(known, 88), None, "known ones have places of their own");
        }
        assert_eq!(queue.push(with(Priority::Known, "203.0.113.9"), 99), Some(99));
    }

    //
    #[test]
    fn known_ones_overtake_a_flood_from_many_networks_and_starve_no_one() {
        let mut queue = FairQueue::new(CAPACITY);
        for entry in 0..1000 {
            let source = format!("198.{}.{}.1", 18 + entry / 250, entry % 250);
            queue.push(with(Priority::Suspect, &source), "suspect");
        }
        assert_eq!(queue.push(with(Priority::Suspect, "198.18.255.1"), "one more"), Some("one more"));
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

    //
    #[test]
    fn known_ones_leave_a_quarter_of_a_full_queue_to_others() {
        let mut queue = FairQueue::new(CAPACITY);
        for entry in 0..2 * CAPACITY {
            let source = format!("192.0.{}.{}", entry / 100, entry % 100);
            queue.push(with(Priority::Known, &source), "known");
        }
        for entry in 0..2 * CAPACITY {
            let source = format!("198.18.{}.{}", entry / 100, entry % 100);
            queue.push(unknown(&source), "other");
        }
        for entry in 0..2 * CAPACITY {
            let source = format!("203.0.{}.{}", entry / 100, entry % 100);
            queue.push(with(Priority::Known, &source), "known");
        }
        assert_eq!(queue.len(), CAPACITY);
        let others = drain(&mut queue).iter().filter(|entry| **entry == "other").count();
        assert_eq!(others, CAPACITY / OTHERS_SHARE);
    }

    //
    #[test]
    fn networks_of_one_region_leave_room_for_another() {
        let mut queue = FairQueue::new(CAPACITY);
        for network in 0..CAPACITY {
            assert_eq!(queue.push(unknown(&format!("2001:db8:{network:x}::1")), "flood"), None);
        }
        assert_eq!(
            queue.push(unknown("2001:db8:ffff::1"), "flood"),
            Some("flood"),
            "no place, and none is longer"
        );
        for address in ["203.0.113.9", "2001:db9::1"] {
            assert_eq!(queue.push(unknown(address), "other"), Some("flood"));
        }
        assert_eq!(queue.len(), CAPACITY);
        assert_eq!(drain(&mut queue)[..4], ["flood", "other", "other", "flood"]);
    }

    //
    #[test]
    fn neighbours_displace_the_sources_that_have_most() {
        let mut queue = FairQueue::new(4);
        for entry in 1..=4 {
            assert_eq!(queue.push(unknown("203.0.113.1"), entry), None);
        }
        assert_eq!(queue.push(unknown("203.0.113.2"), 5), Some(4), "the last of the other source");
        assert_eq!(queue.push(unknown("203.0.113.1"), 6), Some(6));
        assert_eq!(queue.push(unknown("203.0.114.1"), 7), Some(3), "the last of the other network");
        assert_eq!(drain(&mut queue), [1, 7, 5, 2]);
    }

    #[test]
    fn removed_entries_leave_their_place() {
        let mut queue = FairQueue::new(2);
        assert_eq!(queue.push(unknown("203.0.113.1"), 1), None);
        assert_eq!(queue.push(unknown("203.0.113.1"), 2), None);
        assert_eq!(queue.remove(unknown("203.0.113.1"), |entry| *entry == 2), Some(2));
        assert_eq!(queue.remove(unknown("203.0.113.1"), |entry| *entry == 2), None);
        assert_eq!(queue.push(unknown("203.0.113.1"), 3), None);
        assert_eq!(drain(&mut queue), [1, 3]);
        assert_eq!(queue.remove(unknown("203.0.113.1"), |_| true), None);
    }
}
