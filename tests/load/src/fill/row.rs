//! One row: a cache of one size.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LARGE;
use crate::cgroup::MemoryUse;
use crate::filler::Filled;

/// What filling a cache of one size has shown.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) memory_mb: u32,
    pub(super) warm: bool,
    /// Of all phases, and those of them in which it was full: something was evicted or refused.
    pub(super) seconds: f64,
    pub(super) full_seconds: f64,
    #[serde(flatten, serialize_with = "filled")]
    pub(super) filled: Filled,
    pub(super) evictions: i64,
    #[serde(flatten, serialize_with = "memory")]
    pub(super) memory: Option<MemoryUse>,
    /// Samples of memgate that were compared with memcached's own figures.
    pub(super) samples: usize,
    pub(super) are_equal: bool,
    /// What doesn't hold.
    pub(super) failures: Vec<String>,
}

/// The names of the sizes in the table, and in JSON.
const SIZES: [(usize, &str); 3] = [(1, "stored_1_b"), (1_000, "stored_1_kb"), (LARGE, "stored_1_mib")];

#[derive(Serialize)]
struct Replies<'a> {
    #[serde(flatten)]
    stored: BTreeMap<&'static str, u64>,
    found: u64,
    wrong: u64,
    out_of_memory: u64,
    errors: &'a BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Container {
    peak_mb: Option<f64>,
    limit_mb: Option<f64>,
    oom_kills: Option<u64>,
}

fn filled<S: serde::Serializer>(filled: &Filled, serializer: S) -> Result<S::Ok, S::Error> {
    let stored = SIZES.iter().map(|(size, name)| (*name, stored(filled, *size))).collect();
    let Filled { found, wrong, out_of_memory, errors, .. } = filled;
    let (found, wrong, out_of_memory) = (*found, *wrong, *out_of_memory);
    Replies { stored, found, wrong, out_of_memory, errors }.serialize(serializer)
}

fn memory<S: serde::Serializer>(memory: &Option<MemoryUse>, serializer: S) -> Result<S::Ok, S::Error> {
    Container {
        peak_mb: memory.map(|memory| memory.peak_mb),
        limit_mb: memory.map(|memory| memory.limit_mb),
        oom_kills: memory.map(|memory| memory.oom_kills),
    }
    .serialize(serializer)
}

fn stored(filled: &Filled, size: usize) -> u64 {
    filled.stored.get(&size).copied().unwrap_or_default()
}

impl Row {
    pub(super) const HEAD: &str = "MB         s (full)   stored: 1 B      1 KB    1 MiB       found   evictions  \
                                   no room   peak/limit MB     %  OOM kills  samples  equal";

    pub(super) fn new(memory_mb: u32, warm: bool) -> Self {
        Self {
            memory_mb,
            warm,
            seconds: 0.0,
            full_seconds: 0.0,
            filled: Filled::default(),
            evictions: 0,
            memory: None,
            samples: 0,
            are_equal: true,
            failures: Vec::new(),
        }
    }

    /// Notes replies that aren't promised: all but those that there is no room.
    pub(super) fn check_replies(&mut self, phase: &str) {
        let Filled { wrong, errors, .. } = &self.filled;
        let mut found: Vec<String> = errors.iter().map(|(text, count)| format!("{count} x {text}")).collect();
        if *wrong > 0 {
            found.push(format!("{wrong} wrong values"));
        }
        // Each is noted once, with the phase in which it came first.
        let is_noted = |text: &String| self.failures.iter().any(|failure| failure.ends_with(text.as_str()));
        found.retain(|text| !is_noted(text));
        self.failures.extend(found.iter().map(|text| format!("{phase}: {text}")));
    }

    pub(super) fn text(&self) -> String {
        let (peak, limit, kills) = match &self.memory {
            Some(it) => (it.peak_mb, it.limit_mb, it.oom_kills.to_string()),
            None => (f64::NAN, f64::NAN, "-".to_owned()),
        };
        let stored = SIZES.map(|(size, _)| stored(&self.filled, size));
        let mut text = format!(
            "{:5}{} {:5.0} ({:4.0})  {:12}  {:8}  {:7}  {:10}  {:10}  {:8}  {:6.0}/{:6.0}  {:4.0}  {:>9}  {:7}  {}",
            self.memory_mb,
            if self.warm { "w" } else { " " },
            self.seconds,
            self.full_seconds,
            stored[0],
            stored[1],
            stored[2],
            self.filled.found,
            self.evictions,
            self.filled.out_of_memory,
            peak,
            limit,
            peak / limit * 100.0,
            kills,
            self.samples,
            if self.are_equal { "yes" } else { "NO" },
        );
        for failure in &self.failures {
            text.push_str("\n      FAILED: ");
            text.push_str(failure);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_that_there_is_no_room_are_promised() {
        let mut row = Row::new(64, false);
        row.filled.out_of_memory = 7;
        row.check_replies("1 B");
        assert!(row.failures.is_empty());
        row.filled.errors.insert("SERVER_ERROR backend unavailable".to_owned(), 2);
        row.filled.wrong = 1;
        row.check_replies("1 KB");
        row.check_replies("mixed");
        assert_eq!(row.failures, ["1 KB: 2 x SERVER_ERROR backend unavailable", "1 KB: 1 wrong values"]);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((json["out_of_memory"].as_u64(), json["stored_1_b"].as_u64()), (Some(7), Some(0)));
        assert!(json["peak_mb"].is_null() && row.text().contains("FAILED: 1 KB: 1 wrong"));
    }
}
