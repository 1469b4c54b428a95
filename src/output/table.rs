//! Text output for people: aligned columns.

use identity::time_text;

/// Formats rows under headings, with two spaces between columns.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&headings, &widths);
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str), &widths));
    }
    text
}

/// Formats one name and value per line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
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
}
