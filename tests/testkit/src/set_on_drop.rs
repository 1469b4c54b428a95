//! A flag for threads that run until a test is done with them.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when dropped, also by a panic: the threads of a scope that run until then don't keep a failed test from ending.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
