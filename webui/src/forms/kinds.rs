//! Boxes for kinds of notifications: a browser sends those that are ticked, by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use store::{NotificationKind, NotificationKinds};

/// The boxes of a form, as it was sent. Fields with other names are ignored; the size of a form bounds them.
#[derive(Default, Deserialize)]
pub(crate) struct KindBoxes {
    #[serde(flatten)]
    sent: BTreeMap<String, String>,
}

/// A box: name, label, and whether it is ticked.
pub(crate) type KindBox = (&'static str, &'static str, bool);

impl KindBoxes {
    /// The kinds that are ticked.
    pub(crate) fn kinds(&self) -> NotificationKinds {
        NotificationKind::CHOICES.into_iter().filter(|kind| self.sent.contains_key(kind.name())).collect()
    }
}

/// The boxes of a form, with these kinds ticked.
pub(crate) fn boxes(ticked: NotificationKinds) -> Vec<KindBox> {
    NotificationKind::CHOICES
        .into_iter()
        .map(|kind| (kind.name(), kind.label(), ticked.contains(kind)))
        .collect()
}
