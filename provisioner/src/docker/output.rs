//! What a container wrote last, for the record of a repair.

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use tokio::time::{Duration, timeout};

use super::Docker;

/// Time limit: a record is worth no longer wait.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);
const LINES_MAX: &str = "5";
/// Characters, escaped.
const LENGTH_MAX: usize = 500;

impl Docker {
    /// The last lines that a container wrote, on one line and without control characters; empty if they can't be read.
    pub(crate) async fn last_output(&self, container: &str) -> String {
        let Ok(client) = self.client() else { return String::new() };
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(LINES_MAX).build();
        let mut lines = std::pin::pin!(client.logs(container, Some(options)));
        let mut output = String::new();
        let read = async {
            while let Some(Ok(line)) = lines.next().await {
                let line = line.to_string();
                let room = LENGTH_MAX.saturating_sub(output.chars().count());
                output.extend(escape(line.trim_end()).chars().take(room));
                output.push('\n');
            }
        };
        let _ = timeout(OUTPUT_TIMEOUT, read).await;
        output.trim_end().replace('\n', " | ")
    }
}

/// Escapes what a program has written, which may be anything, for terminals and for readers of logs.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(LENGTH_MAX) {
        if c.is_control() || c == '\\' { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-33.
    #[test]
    fn output_is_escaped_and_bounded() {
        assert_eq!(escape("a\u{1b}[2J\r\nb\\ä"), "a\\u{1b}[2J\\r\\nb\\\\ä");
        assert!(escape(&"\u{1b}".repeat(10_000)).len() <= LENGTH_MAX * 8);
    }
}
