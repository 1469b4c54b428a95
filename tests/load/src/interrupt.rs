//! Measurements end when a signal asks for it, and leave nothing running.

use std::future::Future;

use daemon::Shutdown;

use crate::error::LoadError;

/// Runs a measurement on this thread, until it ends or a signal does.
///
/// # Errors
/// Those of the measurement, or that it was interrupted.
pub(crate) fn block_on<T>(measurement: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals("load")?;
        tokio::select! {
            measured = measurement => measured,
            () = shutdown.begun() => Err(interrupted()),
        }
    })
}

pub(crate) fn interrupted() -> LoadError {
    LoadError::new("interrupted", "everything that was started is stopped")
}
