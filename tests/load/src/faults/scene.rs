//! What an injection works with: the installation, the checking client, and the times of the fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checker::Checker;
use super::testbed::Testbed;
use crate::error::LoadError;
use crate::interrupt::interrupted;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// One fault, while it is injected.
pub(super) struct Scene<'a> {
    pub(super) bed: &'a mut Testbed,
    pub(super) checker: &'a Checker,
    pub(super) interrupted: &'a AtomicBool,
    pub(super) begun: Option<Instant>,
    pub(super) ended: Option<Instant>,
    /// Further facts for the table.
    pub(super) notes: Vec<String>,
    /// What doesn't hold.
    pub(super) failures: Vec<String>,
}

impl Scene<'_> {
    /// The fault begins now.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// The fault, which has stood for a while, ends now.
    pub(super) fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// Seconds since the fault's begin.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64())
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Notes what doesn't hold.
    pub(super) fn check(&mut self, holds: bool, promise: &str) {
        if !holds {
            self.failures.push(format!("not so: {promise}"));
        }
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// When the measurement is interrupted.
    pub(super) fn wait(&self, seconds: f64) -> Result<(), LoadError> {
        self.wait_for(seconds, || Ok(false)).map(drop)
    }

    /// Waits until something holds, and returns whether it did in time.
    pub(super) fn wait_for(
        &self,
        seconds: f64,
        mut holds: impl FnMut() -> Result<bool, LoadError>,
    ) -> Result<bool, LoadError> {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            if holds()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
    }
}
