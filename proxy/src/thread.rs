//! Threads with a single-threaded runtime each.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};

use crate::Error;

/// Starts a thread that runs the future which `serve` returns, and ends with it.
///
/// # Errors
///
/// If the thread or its runtime can't be started.
pub(crate) fn start<F, W>(name: String, serve: F) -> Result<JoinHandle<()>, Error>
where
    F: FnOnce() -> W + Send + 'static,
    W: Future<Output = ()> + 'static,
{
    let (started, has_started) = std::sync::mpsc::channel();
    let run = move || {
        // Not movable between threads, so it is made on its own.
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(()));
        runtime.block_on(serve());
    };
    let thread = std::thread::Builder::new().name(name).spawn(run).map_err(Error::Thread)?;
    match has_started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(Error::Thread(error)),
        Err(_) => Err(Error::Thread(io::ErrorKind::BrokenPipe.into())),
    }
}
