//! The state of an instance.

use crate::StoreError;

/// The observed state of an instance, as users, commands and metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Desired, but not up yet.
    Pending,
    /// memcached answers.
    Running,
    /// Stopped because unused; the next request wakes it.
    Asleep,
    /// Coming back.
    Restarting,
    /// Stopped by an operator.
    Suspended,
    /// Can't be started; the message says why.
    Failed,
    /// Being removed.
    Deleting,
}

impl InstanceState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Running,
        Self::Asleep,
        Self::Restarting,
        Self::Suspended,
        Self::Failed,
        Self::Deleting,
    ];

    /// The state's name: `pending`, `running`, ...
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Asleep => "asleep",
            Self::Restarting => "restarting",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(StoreError::Corrupt("instance state"))
    }
}
