//! Idle connections to a role's health port.

use std::sync::Arc;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::job::{Job, Tally};

pub(super) async fn idle(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let options = Options { source: |_| pool::ATTACKER, small_buffer: false };
    pool::hold(job, tally, options).await
}
