//! Text output for people: aligned columns.

use identity::time_text;

use super::escape_controls;

/// Characters of a cell that are shown. A row of the store may hold any text.
const CELL_CHARS_MAX: usize = 200;
/// Characters of a value on its own line that are shown.
const VALUE_CHARS_MAX: usize = 4_000;

/// Formats rows under headings, with two spaces between columns.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| shown(cell, CELL_CHARS_MAX))).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&headings, &widths);
    for row in &rows {
        text.push_str(&line(&row.each_ref().map(String::as_str), &widths));
    }
    text
}

/// Formats one name and value per line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}\n", shown(value, VALUE_CHARS_MAX));
    pairs.iter().map(line).collect()
}

/// A text as it is printed on one line: escaped, and not too long.
fn shown(text: &str, chars_max: usize) -> String {
    let mut shown = escape_controls(text).into_owned();
    if let Some((end, _)) = shown.char_indices().nth(chars_max) {
        shown.truncate(end);
        shown.push_str("...");
    }
    shown
}

/// Formats a past time: `3 minutes ago`.
pub(crate) fn time_since(then: store::Timestamp) -> String {
    format!("{} ago", time_text::duration(store::now().since(then)))
}

/// Formats a future time: `in 3 minutes`.
pub(crate) fn time_until(then: store::Timestamp) -> String {
    format!("in {}", time_text::duration(then.since(store::now())))
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let padded: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
    format!("{}\n", padded.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".to_owned(), "b".to_owned()], ["longer".to_owned(), "c".to_owned()]];
        assert_eq!(table(["x", "y"], &rows), "x       y\na       b\nlonger  c\n");
    }

    // a name that a row of the store holds forges no row, and is no reason to fail.
    #[test]
    fn any_text_stays_in_its_cell() {
        let long = "x".repeat(70_000);
        let rows = [["a\nb".to_owned(), "c".to_owned()], [long.clone(), "\u{202e}".to_owned()]];
        let text = table(["x", "y"], &rows);
        let lines: Vec<_> = text.lines().collect();
        let padded = |cell: &str| format!("{cell:203}  ");
        assert_eq!(
            lines,
            [
                format!("{}y", padded("x")),
                format!("{}c", padded("a\\u000ab")),
                format!("{}...  \\u202e", "x".repeat(200)),
            ]
        );
        let text = pairs(&[("name", "a\nstate  running".to_owned()), ("x", long)]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("name  a\\u000astate") && text.len() < 5_000);
    }
}
