//! An unprivileged local process that dials a container's port.

use std::sync::Arc;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::job::{Job, Tally};

/// A user and a group that no account has.
const UNUSED_ID: u32 = 64_321;

/// Gives up root. Only for this thread, which is the only one that opens connections.
pub(super) fn drop_privileges() -> Result<(), LoadError> {
    let (uid, gid) = (Uid::from_raw(UNUSED_ID), Gid::from_raw(UNUSED_ID));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

pub(super) async fn dial(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let options = Options { source: |_| None, small_buffer: false };
    pool::hold(job, tally, options).await
}
