//! Text of others that is printed: rows of the store, logs of roles. It may steer a terminal, or look like something else.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that show nothing, reorder what is shown, or end a line (Unicode's categories Cf, Zl and Zp).
const INVISIBLE: [(char, char); 19] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e007f}'),
];

/// Escapes control characters and invisible ones as JSON does: a line of JSON stays valid. Tabs are kept.
#[must_use]
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(must_be_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if must_be_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn must_be_escaped(c: char) -> bool {
    let is_invisible = |c: char| INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c));
    (c.is_control() && c != '\t') || (!c.is_ascii() && is_invisible(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    // rows of the store may hold any text.
    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape_controls("plain\ttext \u{e4}\u{1f600}"), "plain\ttext \u{e4}\u{1f600}");
        assert_eq!(escape_controls("a\u{1b}[2Jb\u{9b}\n"), "a\\u001b[2Jb\\u009b\\u000a");
        assert_eq!(escape_controls("a\u{202e}b\u{200b}\u{e0041}"), "a\\u202eb\\u200b\\udb40\\udc41");
        let name = "a\u{7f}\u{9b}\u{1b}\u{202e}\u{2066}\u{feff}\u{e007f}";
        let escaped = escape_controls(&serde_json::json!({ "name": name }).to_string()).into_owned();
        assert!(!escaped.contains(must_be_escaped));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap()["name"], name);
    }
}
