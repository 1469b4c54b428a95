//! How long files and functions may be, and how test files are found.

use crate::source::{self, Source, end_of_item};

const FILE_LINES_MAX: usize = 450;
const FUNCTION_LINES_MAX: usize = 80;

#[test]
fn files_are_short() {
    let long: Vec<String> = source::files("", &[".rs", ".html", ".js"])
        .iter()
        .filter(|file| file.text.lines().count() > FILE_LINES_MAX)
        .map(|file| format!("{}: {} lines", file.path, file.text.lines().count()))
        .collect();
    assert!(long.is_empty(), "files over {FILE_LINES_MAX} lines: split them\n{}", long.join("\n"));
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for file in source::files("", &[".rs"]) {
        let source = Source::parse(&file.text);
        for (name, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {name}: {lines} lines", file.path));
            }
        }
    }
    assert!(long.is_empty(), "functions over {FUNCTION_LINES_MAX} lines: split them\n{}", long.join("\n"));
}

/// Each function of some code, and how many lines it has from `fn` to its last brace.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = code[..at].chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
        let name =
            code[at + 3..].split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
        if starts_word && !name.is_empty() {
            let end = end_of_item(code, at);
            found.push((name, code[at..end].lines().count()));
        }
    }
    found
}

#[test]
fn the_length_of_a_function_is_counted() {
    let code = "fn a() -> [u8; 2] {\n    let b = 1;\n    [b, b]\n}\ntrait T {\n    fn c();\n}\n";
    assert_eq!(functions(code), [("a", 4), ("c", 1)]);
}

#[test]
fn modules_are_found_by_their_names() {
    for file in source::files("", &[".rs"]) {
        let code = Source::parse(&file.text).code;
        assert!(!code.contains("#[path"), "{} has a #[path]: use the module's own folder", file.path);
        let named_mod = file.path.ends_with("/mod.rs");
        assert!(!named_mod, "{}: call it after its folder, `foo.rs` beside `foo/`", file.path);
    }
}
