//! "Why was I refused?", on the command line.

use store::DenialRecord;

use crate::output::table::{self, table};

/// What there is to say about the denials of a token; nothing if there were none.
pub(crate) fn words(denials: &[DenialRecord]) -> String {
    if denials.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = denials.iter().map(row).collect();
    let mut text = format!("\nRefused lately:\n{}", table(["LAST", "TIMES", "CAUSE", "FROM", "HOW"], &rows));
    let mut told = Vec::new();
    for cause in denials.iter().map(|it| it.cause) {
        if !told.contains(&cause) {
            told.push(cause);
            text.push_str(&format!("\n{}: {} {}\n", cause.as_str(), cause.what(), cause.fix()));
        }
    }
    text
}

fn row(denial: &DenialRecord) -> [String; 5] {
    let DenialRecord { cause, source, hint, protocol, tls, times, last_at, .. } = denial;
    let tls = if *tls { "TLS" } else { "no TLS" };
    let how: Vec<&str> = [hint, protocol, tls].into_iter().filter(|word| !word.is_empty()).collect();
    let source = source.as_deref().unwrap_or("many others");
    [table::ago(*last_at), times.to_string(), cause.as_str().into(), source.into(), how.join(", ")]
}
