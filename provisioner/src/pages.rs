//! memcached's pages: it shares its memory out to sizes of items in pages of 1 MiB, and gives a page back only when
//! it is told to take it from a size. Which ones to take when it gets less memory. Pure: no I/O, no clock.

use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// The pages of items of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SizeClass {
    pub(crate) pages: u64,
    pub(crate) free_chunks: u64,
    pub(crate) chunks_per_page: u64,
}

/// All pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// By memcached's number of the size.
    pub(crate) classes: BTreeMap<u32, SizeClass>,
    /// Bytes, with pages that no size has.
    pub(crate) allocated: u64,
}

impl Pages {
    /// Reads the reply to `stats slabs`.
    pub(crate) fn read(figures: &[(String, String)]) -> Self {
        let mut pages = Self::default();
        for (name, value) in figures {
            let Ok(value) = value.parse() else { continue };
            if name == "total_malloced" {
                pages.allocated = value;
            }
            let Some((class, figure)) = name.split_once(':') else { continue };
            let Ok(class) = class.parse() else { continue };
            let class: &mut SizeClass = pages.classes.entry(class).or_default();
            match figure {
                "total_pages" => class.pages = value,
                "free_chunks" => class.free_chunks = value,
                "chunks_per_page" => class.chunks_per_page = value,
                _ => {}
            }
        }
        pages
    }

    /// Pages beyond a number of MiB.
    pub(crate) fn surplus(&self, memory_mb: u64) -> u64 {
        self.allocated.saturating_sub(memory_mb.saturating_mul(MIB)).div_ceil(MIB)
    }

    /// The sizes from which to take the next pages, one for each page: at most `max`, and none once the rest fits into
    /// `memory_mb`, or each size has its last page, which memcached keeps. Free pages go first; then sizes lose in
    /// proportion to what they have, so that the mix of items stays.
    pub(crate) fn next_moves(&self, memory_mb: u64, max: usize) -> Vec<u32> {
        let surplus = self.surplus(memory_mb);
        let count = usize::try_from(surplus).unwrap_or(usize::MAX).min(max);
        let total = self.classes.values().fold(0_u64, |sum, class| sum.saturating_add(class.pages));
        let mut left = self.classes.clone();
        let mut moves = Vec::new();
        while moves.len() < count {
            // Pages that a size has beyond its part of the memory.
            let excess = |class: &SizeClass, id: &u32| {
                let had = self.classes.get(id).map_or(0, |class| class.pages);
                let part = u128::from(had) * u128::from(total.saturating_sub(surplus));
                (u128::from(class.pages) * u128::from(total)).saturating_sub(part)
            };
            let next = left
                .iter()
                .filter(|(_, class)| class.pages > 1)
                .max_by_key(|(id, class)| (class.free_pages(), excess(class, id)))
                .map(|(id, _)| *id);
            let Some(id) = next else { break };
            if let Some(class) = left.get_mut(&id) {
                class.pages -= 1;
                class.free_chunks = class.free_chunks.saturating_sub(class.chunks_per_page);
            }
            moves.push(id);
        }
        moves
    }
}

impl SizeClass {
    fn free_pages(&self) -> u64 {
        self.free_chunks.checked_div(self.chunks_per_page).unwrap_or(0).min(self.pages.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of sizes: their number, and how many of them are free.
    fn pages(classes: &[(u32, u64, u64)]) -> Pages {
        let class = |(id, pages, free): &(u32, u64, u64)| {
            (*id, SizeClass { pages: *pages, free_chunks: free * 10 + 5, chunks_per_page: 10 })
        };
        let allocated = classes.iter().map(|(_, pages, _)| pages * MIB).sum();
        Pages { classes: classes.iter().map(class).collect(), allocated }
    }

    #[test]
    fn statistics_are_read() {
        let figures = [
            ("1:chunk_size", "96"),
            ("1:chunks_per_page", "10922"),
            ("1:total_pages", "3"),
            ("1:free_chunks", "7"),
            ("39:total_pages", "2"),
            ("active_slabs", "2"),
            ("x:total_pages", "2"),
            ("39:free_chunks", "many"),
            ("total_malloced", "6291456"),
        ];
        let read = Pages::read(&figures.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(read.allocated, 6 * MIB);
        let first = SizeClass { pages: 3, free_chunks: 7, chunks_per_page: 10_922 };
        let last = SizeClass { pages: 2, ..SizeClass::default() };
        assert_eq!(read.classes, BTreeMap::from([(1, first), (39, last)]));
        assert_eq!([6, 5, 0].map(|mb| read.surplus(mb)), [0, 1, 6]);
    }

    #[test]
    fn free_pages_go_first_and_then_each_size_loses_its_part() {
        for (classes, memory_mb, expected) in [
            (&[(1, 4, 0)][..], 8, &[][..]),
            (&[(1, 4, 0)], 2, &[1, 1]),
            (&[(1, 4, 0), (2, 4, 2)], 6, &[2, 2]),
            (&[(1, 4, 0), (2, 4, 4)], 5, &[2, 2, 2]),
            (&[(1, 8, 0), (2, 4, 0)], 6, &[1, 1, 2, 1, 2, 1]),
            (&[(1, 1, 0), (2, 3, 0), (3, 1, 1)], 1, &[2, 2]),
            (&[(1, 1, 0), (2, 1, 0)], 1, &[]),
        ] {
            let mut moves = pages(classes).next_moves(memory_mb, 100);
            if expected.len() == 6 {
                // The order among equals doesn't matter.
                moves.sort_unstable();
                assert_eq!(moves, [1, 1, 1, 1, 2, 2], "{classes:?}");
            } else {
                assert_eq!(moves, expected, "{classes:?} to {memory_mb} MB");
            }
        }
        assert_eq!(pages(&[(1, 100, 0)]).next_moves(8, 16).len(), 16);
    }

    #[test]
    fn whatever_memcached_says_moves_are_few() {
        let absurd = SizeClass { pages: u64::MAX, free_chunks: u64::MAX, chunks_per_page: 0 };
        let pages = Pages { classes: BTreeMap::from([(0, absurd), (1, absurd)]), allocated: u64::MAX };
        assert_eq!(pages.next_moves(8, 32).len(), 32);
    }
}
