//! An open file that a task waits for, until it can be read.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a file with the runtime.
///
/// # Errors
/// If the system refuses.
pub(crate) fn register(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "the unsafe replacement asks that the file isn't closed meanwhile: it is owned, and nobody closes it"
    )]
    AsyncFd::with_interest(file, Interest::READABLE)
}
