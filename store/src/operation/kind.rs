//! Kinds and states of operations.

use crate::StoreError;

/// Inserts an operation.
pub(crate) const INSERT: &str = "INSERT INTO operations (id, cache_id, number, kind, memory_mb, requested_by, requests, created_at, \
     asked_at, revision) SELECT $1, $2, COALESCE(MAX(number), 0) + 1, $3, $4, $5, 1, $6, $6, $7 FROM operations WHERE cache_id = $2";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// memcached is stopped and started; the contents are lost, unless the cache is warm.
    Restart,
    /// All items are removed.
    Flush,
    /// memcached gets more or less memory, without a restart unless the cache is warm.
    Resize,
    /// memcached is stopped, and the contents are lost; tokens are refused.
    Suspend,
    /// A suspended cache is started.
    Resume,
    /// The cache is removed.
    Delete,
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
    const ALL: [Self; 6] =
        [Self::Restart, Self::Flush, Self::Resize, Self::Suspend, Self::Resume, Self::Delete];

    /// Its name: `restart`, ...
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Flush => "flush",
            Self::Resize => "resize",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Delete => "delete",
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
