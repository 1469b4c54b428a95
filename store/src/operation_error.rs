//! Why an operation on a cache is refused.

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// It is suspended.
    #[error("the cache is suspended: resume it first")]
    Suspended,
    /// Its user is suspended.
    #[error("the cache's user is suspended: resume the user first")]
    UserSuspended,
    /// An operator has suspended it, and its user wants to resume it.
    #[error("the operator has suspended the cache: ask the operator to resume it")]
    SuspendedByOperator,
    /// It has no contents, or hasn't started yet; its state.
    #[error("the cache isn't running ({0}): wait until it is")]
    NotRunning(&'static str),
    /// memcached doesn't work with so little memory, or not with items as large as the cache's.
    #[error(
        "a cache with items of up to {item_size_max} bytes needs at least {min} MB: ask for that or more"
    )]
    TooSmall {
        /// The least memory in MiB.
        min: i64,
        /// The cache's largest item in bytes.
        item_size_max: i64,
    },
    /// More memory than any machine has.
    #[error("a cache has at most {max} MB: ask for less")]
    TooLarge {
        /// The most memory in MiB.
        max: i64,
    },
    /// More memory than its plan has, for which its user asks.
    #[error("the cache's plan has {max} MB: ask for that or less")]
    AbovePlan {
        /// The most memory in MiB that its user may ask for.
        max: i64,
    },
    /// The machine can't hold it.
    #[error(
        "the machine has no room for {memory_mb} MB, but for {available_mb} MB: ask for less, delete other caches, or set \
         provisioner.memory_mb"
    )]
    NoRoom {
        /// What was asked for, in MiB.
        memory_mb: i64,
        /// The largest size that fits, in MiB.
        available_mb: i64,
    },
    /// Too many in a short time.
    #[error("{max} operations within an hour are the most for a cache: try again later")]
    TooOften {
        /// How many are allowed within an hour.
        max: i64,
    },
}
