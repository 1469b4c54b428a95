//! Lets a test that measures time or memory run while no other proxy runs in this process.

use std::cell::Cell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// How many guards of [`MACHINE`] this thread holds or has been spared: a second read lock of one thread
    /// could wait for ever.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Keeps every [`TestProxy`](crate::TestProxy) of another thread from starting until it is dropped.
#[derive(Debug)]
pub struct Exclusive(#[expect(dead_code, reason = "held for its drop")] RwLockWriteGuard<'static, ()>);

/// Waits until no proxy runs in this process and returns the guard that keeps it so for other threads. Take it
/// before this test's own proxy starts.
pub fn exclusive() -> Exclusive {
    let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    HELD.set(HELD.get() + 1);
    Exclusive(guard)
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

/// What each running proxy holds.
#[derive(Debug)]
pub(crate) struct Shared(
    #[expect(dead_code, reason = "held for its drop")] Option<RwLockReadGuard<'static, ()>>,
);

impl Shared {
    pub(crate) fn take() -> Self {
        let guard = (HELD.get() == 0).then(|| MACHINE.read().unwrap_or_else(PoisonError::into_inner));
        HELD.set(HELD.get() + 1);
        Self(guard)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}
