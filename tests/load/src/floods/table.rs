//! The table in Markdown. Pure.

use super::row::{Compared, Row};
use super::victim::{Felt, KEPT_KEYS, Summary};

pub(super) const HEAD: &str = "| flood | login p99 ms quiet / CPU only / flood | x quiet (x CPU only) | request p99 ms quiet / CPU only / flood | x quiet (x CPU only) | sign-in page worst ms quiet / flood | sign-in worst ms quiet / flood | victim's errors | container | keys kept | aimed at: RSS MB before / peak / after | files before / peak / after | flood's CPU | connections opened (failed, closed), sent (denied) |\n\
                               |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

pub(super) fn all(rows: &[Row], conditions: &str) -> String {
    let mut text = format!("{conditions}\n\n{HEAD}");
    rows.iter().for_each(|row| text += &(line(row) + "\n"));
    rows.iter().for_each(|row| text += &after(row));
    text + &noise(rows)
}

/// What the victim felt after a flood, if that was measured.
fn after(row: &Row) -> String {
    let (login, request) = (row.p99_after(|felt| &felt.login), row.p99_after(|felt| &felt.request));
    let Some(((login, login_ratio), (request, request_ratio))) = login.zip(request) else {
        return String::new();
    };
    format!(
        "\nAfter {}: login p99 {login:.1} ms ({login_ratio:.1} x quiet), request p99 {request:.1} ms ({request_ratio:.1} x quiet).\n",
        row.flood.name()
    )
}

pub(super) fn line(row: &Row) -> String {
    let name = row.flood.name();
    let [login, request] =
        [row.p99(|felt| &felt.login), row.p99(|felt| &felt.request)].map(|p99| compared(&p99));
    let worst =
        |of: fn(&Felt) -> &Summary| format!("{:.0} / {:.0}", of(&row.quiet).max_ms, of(&row.during).max_ms);
    let (page, sign_in) = (worst(|felt| &felt.page), worst(|felt| &felt.sign_in));
    let errors = row.errors();
    let errors = if errors.is_empty() { "none".to_owned() } else { errors.join("; ") };
    let container = if row.is_replaced() { "REPLACED" } else { "same" };
    let kept = row.kept.map_or_else(|| "unreadable".to_owned(), |kept| format!("{kept}/{KEPT_KEYS}"));
    let role = row.flood.role();
    let usage = row.usage.get(&role).copied().unwrap_or_default();
    let restarted: Vec<&str> = row.restarted.iter().map(|role| role.name()).collect();
    let restarted =
        if restarted.is_empty() { String::new() } else { format!(" (restarted: {})", restarted.join(", ")) };
    let [before, peak, after] = [usage.before, usage.peak, usage.after];
    let report = &row.report;
    format!(
        "| {name} | {login} | {request} | {page} | {sign_in} | {errors} | {container} | {kept} \
         | {}{restarted}: {:.0} / {:.0} / {:.0} | {} / {} / {} | {:.0} % | {} ({}, {}), {} ({}) |",
        role.name(),
        before.rss_mb,
        peak.rss_mb,
        after.rss_mb,
        before.files,
        peak.files,
        after.files,
        row.flood_cpu_share * 100.0,
        report.opened,
        report.failed,
        report.closed,
        report.sent,
        report.denied,
    )
}

fn compared(p99: &Compared) -> String {
    let Compared { quiet, cpu_only, during } = p99;
    format!("{quiet:.1} / {cpu_only:.1} / {during:.1} | {:.1} ({:.1})", p99.to_quiet(), p99.to_cpu_only())
}

/// How much the quiet windows differ among themselves: a ratio within this range says nothing.
fn noise(rows: &[Row]) -> String {
    let range = |of: fn(&Felt) -> &Summary| {
        let quiet = rows.iter().map(|row| of(&row.quiet).p99_ms);
        let (low, high) = quiet.fold((f64::INFINITY, 0.0), |(low, high), p99| (p99.min(low), p99.max(high)));
        format!("{low:.1} to {high:.1} ms")
    };
    if rows.is_empty() {
        return String::new();
    }
    let (login, request) = (range(|felt| &felt.login), range(|felt| &felt.request));
    format!("\nQuiet windows: login p99 {login}, request p99 {request}.\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::job::Report;
    use super::super::kind::Kind;
    use super::*;

    fn felt(p99_ms: f64) -> Felt {
        let summary = Summary { answered: 99, p99_ms, ..Summary::default() };
        Felt { login: summary.clone(), request: summary, ..Felt::default() }
    }

    #[test]
    fn a_line_has_a_cell_for_each_column() {
        let mut during = felt(6.0);
        during.login.errors.insert("timed out".into(), 3);
        let row = Row {
            flood: Kind::ContainerPort,
            quiet: felt(2.0),
            during,
            after: Some(felt(4.0)),
            cpu_only: felt(3.0),
            flood_cpu_share: 0.5,
            report: Report { opened: 1_100, ..Report::default() },
            generations: [1, 2],
            kept: Some(0),
            usage: BTreeMap::new(),
            restarted: Vec::new(),
        };
        let line = line(&row);
        assert_eq!(line.matches('|').count(), HEAD.lines().next().unwrap().matches('|').count());
        for part in ["2.0 / 3.0 / 6.0 | 3.0 (2.0)", "REPLACED", "0/100", "login 3 of 102 (timed out)"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let text = all(&[row], "conditions");
        assert!(text.contains("login p99 4.0 ms (2.0 x quiet), request p99 4.0 ms (2.0 x quiet)"), "{text}");
        assert!(text.ends_with("request p99 2.0 to 2.0 ms.\n"), "{text}");
    }
}
