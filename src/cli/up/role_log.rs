//! Copies a role's stderr to our own, line by line. A role has no terminal of its own, and what it writes can neither
//! steer one nor fill memory.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::ChildStderr;
use tokio::task::JoinSet;

use crate::output::escape_controls;

/// Bytes of a line that are copied; the rest is left out, and counted.
const LINE_MAX: usize = 16 << 10;
/// For the last lines of a role that has exited.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);
const CHUNK: usize = 8 << 10;

/// The line being read.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    left_out: usize,
}

/// The task that copies one role's stderr.
pub(super) struct RoleLog(JoinSet<()>);

impl RoleLog {
    /// Starts to copy.
    pub(super) fn start(stderr: Option<ChildStderr>) -> Self {
        let mut task = JoinSet::new();
        if let Some(stderr) = stderr {
            task.spawn(copy(stderr, tokio::io::stderr()));
        }
        Self(task)
    }

    /// Copies the last lines of a role that has exited. A process that the role left behind may keep its stderr open:
    /// that isn't waited for.
    pub(super) async fn finish(mut self) {
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.0.join_next()).await;
    }
}

/// Copies until the role closes its end. Failures to write are ignored, as those of a log are.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut line = Line::default();
    let mut chunk = [0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let mut rest = &chunk[..length];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.push(&rest[..end]);
            line.write(&mut to).await;
            rest = &rest[end + 1..];
        }
        line.push(rest);
    }
    if !line.bytes.is_empty() {
        line.write(&mut to).await;
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.left_out += bytes.len() - kept;
    }

    async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin)) {
        let mut text = escape_controls(&String::from_utf8_lossy(&self.bytes)).into_owned();
        if self.left_out > 0 {
            text.push_str(&format!(" ... ({} bytes left out)", self.left_out));
        }
        text.push('\n');
        let _ = to.write_all(text.as_bytes()).await;
        let _ = to.flush().await;
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn copied(written: &[u8]) -> String {
        let mut copied = Vec::new();
        copy(written, &mut copied).await;
        String::from_utf8(copied).unwrap()
    }

    //
    #[tokio::test]
    async fn control_characters_are_escaped() {
        assert_eq!(copied(b"one\ntwo\tthree\n\nlast").await, "one\ntwo\tthree\n\nlast\n");
        let hostile = "\u{1b}]0;title\u{7}\r\u{9b}2J\u{7f}\n".as_bytes();
        assert_eq!(copied(hostile).await, "\\u001b]0;title\\u0007\\u000d\\u009b2J\\u007f\n");
        assert_eq!(copied(b"\xff\x9b\n").await, "\u{fffd}\u{fffd}\n", "raw bytes are no control characters");
    }

    #[tokio::test]
    async fn long_lines_are_cut() {
        let long = [vec![b'x'; LINE_MAX + 5], b"\nshort\n".to_vec()].concat();
        let copied = copied(&long).await;
        let (first, rest) = copied.split_once('\n').unwrap();
        assert_eq!(first.strip_prefix(&"x".repeat(LINE_MAX)), Some(" ... (5 bytes left out)"));
        assert_eq!(rest, "short\n");
        assert_eq!(super::Line::default().bytes.capacity(), 0);
    }
}
