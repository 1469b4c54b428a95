//! Copies a role's stderr to our own, line by line, with the role's name. A role has no terminal of its own, and what it
//! writes can neither steer one nor fill memory (R-28).

use std::time::Duration;

use daemon::telemetry::LogFormat;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
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

/// How lines name the role.
#[derive(Clone, Copy)]
struct Style {
    role: &'static str,
    format: LogFormat,
}

/// The task that copies one role's stderr.
pub(super) struct RoleLog(JoinSet<()>);

impl RoleLog {
    /// Starts to copy the lines of `role`.
    pub(super) fn start(role: &'static str, format: LogFormat, stderr: pipe::Receiver) -> Self {
        let mut task = JoinSet::new();
        task.spawn(copy(Style { role, format }, stderr, tokio::io::stderr()));
        Self(task)
    }

    /// Copies the last lines of a role that has exited. A process that the role left behind may keep its stderr open:
    /// that isn't waited for.
    pub(super) async fn finish(&mut self) {
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.0.join_next()).await;
    }
}

/// Copies until the role closes its end. Failures to write are ignored, as those of a log are.
async fn copy(style: Style, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut line = Line::default();
    let mut chunk = [0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let mut rest = &chunk[..length];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.push(&rest[..end]);
            line.write(style, &mut to).await;
            rest = &rest[end + 1..];
        }
        line.push(rest);
    }
    if !line.bytes.is_empty() {
        line.write(style, &mut to).await;
    }
}

impl Style {
    /// The line with the role's name. A line of JSON becomes one whose first field that is, and other lines become JSON, too.
    fn apply(self, line: &str, left_out: usize) -> String {
        let role = self.role;
        match self.format {
            LogFormat::Text if left_out > 0 => format!("{role}: {line} ... ({left_out} bytes left out)"),
            LogFormat::Text => format!("{role}: {line}"),
            LogFormat::Json => {
                let mut fields = match serde_json::from_str(line) {
                    Ok(fields) if left_out == 0 => fields,
                    _ => Map::from_iter([("message".to_owned(), line.into())]),
                };
                if left_out > 0 {
                    fields.insert("left_out".to_owned(), left_out.into());
                }
                // Of fields with the same name only one is left, and none says that another role writes.
                fields.remove("role");
                let fields = Value::Object(fields).to_string();
                let comma = if fields == "{}" { "" } else { "," };
                format!("{{\"role\":\"{role}\"{comma}{}", fields.trim_start_matches('{'))
            }
        }
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.left_out += bytes.len() - kept;
    }

    async fn write(&mut self, style: Style, to: &mut (impl AsyncWrite + Unpin)) {
        let text = style.apply(&String::from_utf8_lossy(&self.bytes), self.left_out);
        let mut text = escape_controls(&text).into_owned();
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
        copied_as(LogFormat::Text, written).await
    }

    async fn copied_as(format: LogFormat, written: &[u8]) -> String {
        let mut copied = Vec::new();
        copy(Style { role: "proxy", format }, written, &mut copied).await;
        String::from_utf8(copied).unwrap()
    }

    // R-28.
    #[tokio::test]
    async fn control_characters_are_escaped() {
        assert_eq!(
            copied(b"one\ntwo\tthree\n\nlast").await,
            "proxy: one\nproxy: two\tthree\nproxy: \nproxy: last\n"
        );
        let hostile = "\u{1b}]0;title\u{7}\r\u{9b}2J\u{7f}\n".as_bytes();
        assert_eq!(copied(hostile).await, "proxy: \\u001b]0;title\\u0007\\u000d\\u009b2J\\u007f\n");
        assert_eq!(
            copied(b"\xff\x9b\n").await,
            "proxy: \u{fffd}\u{fffd}\n",
            "raw bytes are no control characters"
        );
        // What is read from right to left must not hide who writes.
        let turned = "\u{202e}yxorp\u{2066}\n".as_bytes();
        assert_eq!(copied(turned).await, "proxy: \\u202eyxorp\\u2066\n");
    }

    // R-28.
    #[tokio::test]
    async fn lines_of_json_stay_json() {
        let written = b"{\"level\":\"INFO\"}\nthread panicked: \"x\"\n";
        let copied = copied_as(LogFormat::Json, written).await;
        let lines: Vec<serde_json::Value> =
            copied.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], serde_json::json!({ "role": "proxy", "level": "INFO" }));
        assert_eq!(lines[1], serde_json::json!({ "role": "proxy", "message": "thread panicked: \"x\"" }));
    }

    // R-28: readers differ in which of two fields with the same name they take.
    #[tokio::test]
    async fn a_role_speaks_as_no_other() {
        let written = br#"{"role":"provisioner","level":"INFO","r\u006fle":"webui","level":"ERROR"}
{"role":"provisioner"}
{"role":"provisioner"
{"role":"provisioner"} {"level":"INFO"}
["role","provisioner"]
{}
"#;
        let copied = copied_as(LogFormat::Json, written).await;
        assert_eq!(copied.lines().count(), 6);
        for line in copied.lines() {
            assert!(line.starts_with(r#"{"role":"proxy""#), "{line}");
            assert_eq!(line.matches(r#""role":"#).count(), 1, "{line}");
            let fields: Map<String, Value> = serde_json::from_str(line).unwrap();
            assert_eq!(fields["role"], "proxy", "{line}");
        }
        assert_eq!(copied.lines().next(), Some(r#"{"role":"proxy","level":"ERROR"}"#));
        let long = [br#"{"level":""#.as_slice(), &[b'x'; LINE_MAX], br#"","role":"webui"}"#].concat();
        let cut: Map<String, Value> = serde_json::from_str(&copied_as(LogFormat::Json, &long).await).unwrap();
        assert_eq!((&cut["role"], &cut["left_out"]), (&"proxy".into(), &27.into()));
    }

    #[tokio::test]
    async fn long_lines_are_cut() {
        let long = [vec![b'x'; LINE_MAX + 5], b"\nshort\n".to_vec()].concat();
        let copied = copied(&long).await;
        let (first, rest) = copied.split_once('\n').unwrap();
        let shown = format!("proxy: {}", "x".repeat(LINE_MAX));
        assert_eq!(first.strip_prefix(&shown), Some(" ... (5 bytes left out)"));
        assert_eq!(rest, "proxy: short\n");
        assert_eq!(super::Line::default().bytes.capacity(), 0);
    }
}
