//! Kinds and states of operations.

use crate::StoreError;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// memcached is stopped and started; the contents are lost.
    Restart,
    /// All items are removed.
    Flush,
    /// memcached gets more or less memory, without a restart.
    Resize,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// Nothing was done yet.
    Pending,
    /// The provisioner has begun.
    Running,
    /// The end.
    Done,
    /// The end; the message says why.
    Failed,
}

impl OperationKind {
    const ALL: [Self; 3] = [Self::Restart, Self::Flush, Self::Resize];

    /// Its name: `restart`, ...
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Flush => "flush",
            Self::Resize => "resize",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or(StoreError::Corrupt("kind of an operation"))
    }
}

impl OperationState {
    const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Done, Self::Failed];

    /// Its name: `pending`, ...
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or(StoreError::Corrupt("state of an operation"))
    }
}
