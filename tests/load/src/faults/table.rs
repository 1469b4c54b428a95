//! The table in Markdown. Pure.

use super::row::Row;
use super::testbed::KEPT_KEYS;
use super::watch::NotReady;

pub(super) const HEAD: &str = "| fault | rule | before | callers saw | last error, s after the fault (after its end) | container, keys kept | not ready meanwhile, s | all ready, s after the end | verdict |\n\
                               |---|---|---|---|---|---|---|---|---|\n";
/// Characters of a text in a cell.
const CELL_MAX: usize = 180;

pub(super) fn all(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    rows.iter().for_each(|row| text += &(line(row) + "\n"));
    let answered: u64 = rows.iter().map(|row| row.seen.answered).sum();
    let wrong: u64 = rows.iter().map(|row| row.seen.stale + row.seen.foreign + row.seen.torn).sum();
    text + &format!("\n{answered} replies were checked; {wrong} were wrong.\n")
}

pub(super) fn line(row: &Row) -> String {
    let fault = row.fault;
    let last_error = row.last_error.map_or("-".to_owned(), |[begun, ended]| {
        if row.stood_for > 0.0 { format!("{begun:.1} ({ended:.1})") } else { format!("{begun:.1}") }
    });
    let ready = row.ready_after.map_or("NOT READY".to_owned(), |seconds| format!("{seconds:.1}"));
    let notes = row.notes.iter().map(|note| format!("; {note}")).collect::<String>();
    let verdict =
        if row.holds() { "holds".to_owned() } else { format!("FAILS: {}", row.failures.join("; ")) };
    let cells = [
        format!("`{}`: {}", fault.name, fault.does),
        fault.rules.to_owned(),
        fault.before.to_owned(),
        errors(row) + &notes,
        last_error,
        losses(row),
        reports(row),
        ready,
        verdict,
    ];
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "/").replace('\n', " ")).collect();
    format!("| {} |", cells.join(" | "))
}

/// Errors by how often they occurred.
fn errors(row: &Row) -> String {
    let seen = &row.seen;
    let mut errors: Vec<(&String, &u64)> = seen.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut texts: Vec<String> = errors.iter().map(|(text, count)| format!("{count} x {text}")).collect();
    if texts.is_empty() {
        texts.push("no error".to_owned());
    } else {
        texts.push(format!("of {} requests", seen.answered + seen.errors.values().sum::<u64>()));
    }
    if seen.of_others > 0 {
        texts.push(format!("{} at other caches", seen.of_others));
    }
    texts.join(", ")
}

fn losses(row: &Row) -> String {
    let container = match &row.replaced[..] {
        [] => "same".to_owned(),
        [0] => "replaced".to_owned(),
        all => format!("REPLACED {all:?}"),
    };
    let kept = row.kept.as_ref().map_or("unreadable".to_owned(), |kept| {
        let others = kept.iter().skip(1).min().copied().unwrap_or(KEPT_KEYS);
        let others = if others == KEPT_KEYS { String::new() } else { format!(", OTHERS {others}") };
        format!("{}/{KEPT_KEYS}{others}", kept.first().copied().unwrap_or_default())
    });
    format!("{container}, {kept}")
}

fn reports(row: &Row) -> String {
    let one = |NotReady { first, last, text }: &NotReady| format!("{first:.1} to {last:.1}: {}", cut(text));
    let not_ready = row.not_ready.iter().map(|(source, period)| format!("{} {}", source.name(), one(period)));
    let warned = row.warnings.iter().map(|(source, text)| format!("{} warns: {}", source.name(), cut(text)));
    let all: Vec<String> = not_ready.chain(warned).collect();
    if all.is_empty() { "-".to_owned() } else { all.join("<br>") }
}

fn cut(text: &str) -> String {
    text.chars().take(CELL_MAX).collect()
}
