//! Logging: one line per event, on stderr, as text or JSON. Never logs a token, key, value or password.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The workspace's crates that log. Every other crate is a library.
const OWN_CRATES: [&str; 7] = ["daemon", "identity", "memgate", "provisioner", "proxy", "store", "webui"];

/// Modules of the SQL library whose warnings tell an operator nothing: waits for a connection, and PostgreSQL's notices.
const SQL_LIBRARY: &str = "sqlx";
const NOISY_SQL_MODULES: [&str; 2] = ["pool::acquire", "postgres::notice"];
/// Peers decide what rustls warns of, line by line, such as an address in place of a host name. Metrics count handshakes.
const TLS_LIBRARY: &str = "rustls";

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// Returns the log filter for a verbosity: how many times `-v` was given.
///
/// | verbosity | memgate's own crates | libraries |
/// |---|---|---|
/// | 0 | info | warn |
/// | 1 (`-v`) | debug | info |
/// | 2 and more (`-vv`) | trace | debug |
///
/// `default_filter(0)` is meant as the default of `log.filter`. A command that takes `-v` replaces the filter
/// by `default_filter(count)` before it calls [`init`], unless the settings name a filter themselves.
///
/// ```
/// assert!(daemon::telemetry::default_filter(0).starts_with("warn,"));
/// assert!(daemon::telemetry::default_filter(0).contains(",proxy=info"));
/// assert!(daemon::telemetry::default_filter(1).contains(",proxy=debug"));
/// ```
#[must_use]
pub fn default_filter(verbosity: u8) -> String {
    let (libraries, own) = match verbosity {
        0 => ("warn", "info"),
        1 => ("info", "debug"),
        _ => ("debug", "trace"),
    };
    let mut filter =
        OWN_CRATES.iter().fold(libraries.to_owned(), |filter, name| format!("{filter},{name}={own}"));
    if verbosity == 0 {
        NOISY_SQL_MODULES
            .iter()
            .for_each(|module| filter.push_str(&format!(",{SQL_LIBRARY}::{module}=error")));
    }
    filter
}

/// Starts logging; call it once. `filter` is written like `RUST_LOG`: "info", "proxy=debug,warn".
///
/// An invalid filter is replaced by [`default_filter`], with a warning in the log.
pub fn init(filter: &str, format: LogFormat) {
    let parsed = EnvFilter::try_new(filter);
    let invalid = parsed.as_ref().err().map(ToString::to_string);
    let levels = parsed.unwrap_or_else(|_| EnvFilter::new(default_filter(0)));
    subscriber(levels, filter.contains(TLS_LIBRARY), format, std::io::stderr).init();
    if let Some(error) = invalid {
        tracing::warn!(error, "invalid log filter: using the default");
    }
}

/// Checks a filter that [`init`] would replace.
///
/// # Errors
/// Why it is invalid.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

/// Writes the events that `levels` lets pass to `writer`; what peers make rustls warn of only if `warns_of_peers`.
///
/// The filters are for all layers. One for a single layer remembers, per thread, that it said no to `tracing::enabled!`, and then
/// drops the thread's next events of call sites that it always lets pass: sqlx asks in this way at each query.
fn subscriber<W>(
    levels: EnvFilter,
    warns_of_peers: bool,
    format: LogFormat,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filtered = tracing_subscriber::registry()
        .with(levels)
        .with(filter_fn(is_free_of_secrets))
        .with(filter_fn(move |event| warns_of_peers || !is_decided_by_peers(event)));
    // A line that can't be written, because the terminal is gone, is no reason to end.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(filtered.with(lines.with_ansi(false))),
        LogFormat::Json => Box::new(filtered.with(lines.json())),
    }
}

/// At trace level bollard logs the bodies of its requests to Docker, which hold the instances' passwords.
/// No filter enables that.
fn is_free_of_secrets(event: &Metadata<'_>) -> bool {
    *event.level() <= Level::DEBUG || !event.target().starts_with("bollard")
}

/// A line for each connection of a peer would fill the log. A filter that names rustls shows them.
fn is_decided_by_peers(event: &Metadata<'_>) -> bool {
    *event.level() == Level::WARN && event.target().starts_with(TLS_LIBRARY)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(filter: &str, log: impl FnOnce()) -> String {
        let written = Written::default();
        let to = written.clone();
        let peers = filter.contains(TLS_LIBRARY);
        let subscriber = subscriber(EnvFilter::new(filter), peers, LogFormat::Text, move || to.clone());
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_library_that_asks_whether_it_may_log_silences_nobody() {
        let log = || {
            for _ in 0..3 {
                assert!(!tracing::enabled!(target: "some_library", Level::DEBUG));
                tracing::info!(target: "proxy", "shown");
            }
        };
        assert_eq!(written(&default_filter(0), log).matches("shown").count(), 3);
    }

    #[test]
    fn peers_and_a_busy_store_do_not_fill_the_log() {
        let log = || {
            tracing::warn!(target: "rustls::msgs::handshake", "Illegal SNI extension");
            tracing::error!(target: "rustls::key_log_file", "unusable");
            tracing::warn!(target: concat!("sqlx", "::pool::acquire"), "slow");
            tracing::warn!(target: "axum", "shown");
        };
        let default = written(&default_filter(0), log);
        assert!(default.contains("shown") && default.contains("unusable"), "{default}");
        assert!(!default.contains("SNI") && !default.contains("slow"), "{default}");
        let info = written("info", log);
        assert!(info.contains("slow") && !info.contains("SNI"), "{info}");
        assert!(written("info,rustls=warn", log).contains("SNI"));
    }
}
