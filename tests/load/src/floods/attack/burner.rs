//! The CPU time of a flood without its traffic.

use std::time::{Duration, Instant};

use crate::error::LoadError;

const PERIOD: Duration = Duration::from_millis(10);

/// Uses this share of a core.
pub(super) async fn burn(share: f64) -> Result<(), LoadError> {
    loop {
        let start = Instant::now();
        let busy = PERIOD.mul_f64(share.clamp(0.0, 1.0));
        while start.elapsed() < busy {
            std::hint::spin_loop();
        }
        tokio::time::sleep(PERIOD.saturating_sub(start.elapsed())).await;
    }
}
