//! Sizes of items of a memcached, as a short text: numbers with spaces between them, sizes with commas between them.

use std::fmt::Write as _;

/// Sizes that are kept. memcached has at most 63.
const CLASSES_MAX: usize = 63;
/// Bytes of a text: 63 sizes of a full cache have half of it, what a hostile memcached says may not fit.
const TEXT_MAX: usize = 4 * 1024;

/// Items of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct SlabClass {
    /// memcached's number of the size.
    pub class: u32,
    /// Bytes of an item with all that belongs to it.
    pub chunk_size: u64,
    /// Pages of 1 MiB.
    pub pages: u64,
    /// Items.
    pub items: u64,
    /// Items that were removed to make room.
    pub evicted: u64,
    /// Those of them that nobody had read.
    pub evicted_unfetched: u64,
    /// Stores that failed because there was no room and nothing to remove.
    pub out_of_memory: u64,
}

/// Those that fit.
pub(super) fn to_text(classes: &[SlabClass]) -> String {
    let mut text = String::new();
    for it in classes.iter().take(CLASSES_MAX) {
        let SlabClass { class, chunk_size, pages, items, evicted, evicted_unfetched, out_of_memory } = it;
        let mut one = if text.is_empty() { String::new() } else { ",".to_owned() };
        let _ =
            write!(one, "{class} {chunk_size} {pages} {items} {evicted} {evicted_unfetched} {out_of_memory}");
        if text.len() + one.len() > TEXT_MAX {
            break;
        }
        text.push_str(&one);
    }
    text
}

/// Leaves out what isn't one.
pub(super) fn parse(text: &str) -> Vec<SlabClass> {
    text.split(',').take(CLASSES_MAX).filter_map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<SlabClass> {
    let mut numbers = text.split(' ');
    let class = numbers.next()?.parse().ok()?;
    let mut next = || numbers.next()?.parse().ok();
    Some(SlabClass {
        class,
        chunk_size: next()?,
        pages: next()?,
        items: next()?,
        evicted: next()?,
        evicted_unfetched: next()?,
        out_of_memory: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written_and_bounded() {
        let one =
            |class| SlabClass { class, chunk_size: 96, pages: 2, out_of_memory: 7, ..SlabClass::default() };
        let classes = [one(1), one(39)];
        assert_eq!(to_text(&classes), "1 96 2 0 0 0 7,39 96 2 0 0 0 7");
        assert_eq!(parse(&to_text(&classes)), classes);
        assert_eq!(parse(""), []);
        assert_eq!(parse("x,1 2 3,5 96 2 0 0 0 -1,1 96 2 0 0 0 7"), [one(1)]);
        assert_eq!(parse(&to_text(&vec![one(1); 100])).len(), CLASSES_MAX);
        let max =
            SlabClass { chunk_size: u64::MAX, pages: u64::MAX, items: u64::MAX, evicted: u64::MAX, ..one(1) };
        assert!(to_text(&[max; CLASSES_MAX]).len() <= TEXT_MAX);
    }
}
