//! Signs of life for `memgate up`: a byte a second while the role makes progress. They go through a pipe that is open from
//! the start, because a role without free file descriptors isn't hung (F-25).

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
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

/// Sends them until `memgate up` has ended. The kernel tells a role of that by a signal, but not one that was started just
/// before, and can't know who its parent was.
pub(super) async fn send(mut pipe: File, health: Health) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        // A full pipe holds enough of them.
        let sent = if health.makes_progress() { pipe.write(b".") } else { Ok(0) };
        if sent.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use super::*;

    //
    #[tokio::test]
    async fn role_notices_that_its_supervisor_has_ended() {
        let (supervisor, role) = std::io::pipe().unwrap();
        let (mut supervisor, mut sign) = (supervisor, [0; 1]);
        let receive = tokio::task::spawn_blocking(move || supervisor.read_exact(&mut sign).unwrap());
        let sending = send(OwnedFd::from(role).into(), Health::default());
        let (sent, received) = tokio::join!(tokio::time::timeout(INTERVAL * 20, sending), receive);
        assert!(sent.is_ok() && received.is_ok());
    }
}
