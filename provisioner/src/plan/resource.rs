//! What else Docker says: how a container ended, and what there is beside containers.

use store::Timestamp;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i64,
    pub(crate) out_of_memory: bool,
    /// Whether Docker told of its end, and of nobody who asked for that.
    pub(crate) by_itself: bool,
}

/// One of the installation's volumes or networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: String,
    /// The id of the instance, for a volume.
    pub(crate) instance: Option<String>,
    pub(crate) created_at: Timestamp,
}
