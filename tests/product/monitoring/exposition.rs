//! Reads the text format of `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::health::get;

/// A metric: all series of one name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) help: String,
    /// The values of each label, but for the bounds of buckets.
    pub(super) labels: BTreeMap<String, BTreeSet<String>>,
}

/// The metrics of a role, and the names of its series.
pub(super) struct Exposition {
    pub(super) families: BTreeMap<String, Family>,
    pub(super) series: BTreeSet<String>,
}

impl Exposition {
    pub(super) fn of(health: SocketAddr) -> Self {
        let response = get(health, "/metrics").unwrap();
        let (_, text) = response.split_once("\r\n\r\n").unwrap();
        Self::parse(text)
    }

    fn parse(text: &str) -> Self {
        let mut read = Self { families: BTreeMap::new(), series: BTreeSet::new() };
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                read.families.entry(name.to_owned()).or_default().help =
                    help.trim_end_matches('.').to_owned();
            } else if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            {
                read.families.entry(name.to_owned()).or_default().kind = kind.to_owned();
            } else if let Some((series, _)) = line.rsplit_once(' ') {
                read.add_series(series);
            }
        }
        read
    }

    fn add_series(&mut self, series: &str) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        self.series.insert(name.to_owned());
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = match base {
            Some(base) if self.families.contains_key(base) => self.families.get_mut(base),
            _ => self.families.get_mut(name),
        };
        let family = family.unwrap_or_else(|| panic!("{series} has no type"));
        for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').unwrap();
            if name != "le" {
                let values = family.labels.entry(name.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
}
