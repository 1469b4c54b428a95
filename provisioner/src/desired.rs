//! What an instance is to be, to tell a change of that from what the provisioner itself records. Pure.

use store::{DesiredState, Instance, Operation};

/// The desired state of an instance, to tell a change of it from what the provisioner itself records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    state: DesiredState,
    /// Memory, connections, item size and CPU weight.
    limits: [i64; 4],
    /// Ids of unfinished operations.
    asked: Vec<String>,
    /// Whether it sleeps and is to wake.
    wakes: bool,
}

impl Desired {
    pub(crate) fn new(instance: &Instance, asked: Vec<Operation>) -> Self {
        Self {
            state: instance.desired,
            limits: [instance.memory_mb, instance.connections, instance.item_size_max, instance.cpu_weight],
            asked: asked.into_iter().map(|operation| operation.id).collect(),
            wakes: instance.wake_requested,
        }
    }

    /// Whether there is something to do that there wasn't before. An operation that has ended is nothing to do.
    pub(crate) fn asks_more_than(&self, before: &Self) -> bool {
        let is_asked_before = |id: &String| before.asked.contains(id);
        let is_woken = self.wakes && !before.wakes;
        is_woken
            || self.state != before.state
            || self.limits != before.limits
            || !self.asked.iter().all(is_asked_before)
    }
}
