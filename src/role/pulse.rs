//! Signs of life for `memgate up`: a byte a second while the role makes progress. They go through a pipe that is open from
//! the start, because a role without free file descriptors isn't hung (F-25).

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::time::Duration;

use daemon::health::Health;
use rustix::fs::OFlags;

const INTERVAL: Duration = Duration::from_secs(1);

/// Takes the pipe, which `memgate up` has put in the place of stdout, and puts /dev/null there: programs that the role runs
/// don't inherit it.
pub(super) fn take_stdout() -> io::Result<File> {
    const LOWEST: i32 = 3;
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), LOWEST)?;
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    // Nobody reads it while `memgate up` is stopped.
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    Ok(pipe.into())
}

/// Sends them for ever.
pub(super) async fn send(mut pipe: File, health: Health) -> Infallible {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        if health.makes_progress() {
            // A full pipe holds enough of them.
            let _ = pipe.write(b".");
        }
    }
}
