//! The two text formats: OpenMetrics, which Prometheus asks for, and the older one, which tools like `promtool check
//! metrics` read. They differ in the names that help and type belong to.

use std::fmt::Error;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

/// The content type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older format.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics as a response's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsText {
    /// Its media type.
    pub content_type: &'static str,
    /// The body.
    pub text: String,
}

/// Encodes registries, no two of which have a name in common, in the format that a request's `Accept` header asks for, and
/// otherwise in the older one, which all tools read.
///
/// # Errors
/// If a metric can't be formatted.
pub fn encode(registries: &[&Registry], accept: &str) -> Result<MetricsText, Error> {
    let mut text = String::new();
    for registry in registries {
        encode_registry(&mut text, registry)?;
    }
    encode_eof(&mut text)?;
    if accept.contains("application/openmetrics-text") {
        return Ok(MetricsText { content_type: OPEN_METRICS, text });
    }
    Ok(MetricsText { content_type: CLASSIC, text: to_classic(&text) })
}

/// Converts OpenMetrics to the older format.
pub(super) fn to_classic(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len());
    // The help of the next type.
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            classic += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            classic += line;
            classic.push('\n');
        }
    }
    classic
}
