//! Recent denials of a token, with their reasons and fixes.

use store::DenialRecord;

use crate::output::table::{self, table};

/// Formats a table of denials and an explanation of each cause; empty without denials.
pub(super) fn text(denials: &[DenialRecord]) -> String {
    if denials.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = denials.iter().map(row).collect();
    let headings = ["LAST", "COUNT", "CAUSE", "SOURCE", "DETAIL"];
    let mut text = format!("\nRecent denials:\n{}", table(headings, &rows));
    let mut explained = Vec::new();
    for cause in denials.iter().map(|it| it.cause) {
        if !explained.contains(&cause) {
            explained.push(cause);
            text.push_str(&format!("\n{}: {} {}\n", cause.as_str(), cause.what(), cause.fix()));
        }
    }
    text
}

fn row(denial: &DenialRecord) -> [String; 5] {
    let DenialRecord { cause, source, detail, protocol, tls, count, last_at, .. } = denial;
    let tls = if *tls { "TLS" } else { "no TLS" };
    let details: Vec<&str> = [detail, protocol, tls].into_iter().filter(|word| !word.is_empty()).collect();
    let source = source.as_deref().unwrap_or("many others");
    [table::time_since(*last_at), count.to_string(), cause.as_str().into(), source.into(), details.join(", ")]
}
