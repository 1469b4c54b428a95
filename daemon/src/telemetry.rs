//! Logging: one line per event, on stderr, as text or JSON. Never logs a token, key, value or password.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The workspace's crates that log. Every other crate is a library.
const OWN_CRATES: [&str; 7] = ["daemon", "identity", "memgate", "provisioner", "proxy", "store", "webui"];

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
    OWN_CRATES.iter().fold(libraries.to_owned(), |filter, name| format!("{filter},{name}={own}"))
}

/// Starts logging; call it once. `filter` is written like `RUST_LOG`: "info", "proxy=debug,warn".
///
/// An invalid filter is replaced by [`default_filter`], with a warning in the log.
pub fn init(filter: &str, format: LogFormat) {
    let parsed = EnvFilter::try_new(filter);
    let invalid = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(default_filter(0)));
    let filter = filter.and(filter_fn(is_free_of_secrets));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => lines.with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer).init();
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

/// At trace level bollard logs the bodies of its requests to Docker, which hold the instances' passwords.
/// No filter enables that.
fn is_free_of_secrets(event: &Metadata<'_>) -> bool {
    *event.level() <= Level::DEBUG || !event.target().starts_with("bollard")
}
