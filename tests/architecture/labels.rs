//! Metrics: names, labels and their values are snake_case words.

use crate::source::{self, Source, end_of_item};

#[test]
fn label_values_are_snake_case() {
    let mut seen = 0;
    for file in product_sources() {
        let code = Source::parse(&file.text).code;
        // The derive takes the variant's name as it stands: `Hit` instead of `hit`.
        let derived = code.contains("EncodeLabelValue)]") || code.contains("EncodeLabelValue,");
        let in_derive =
            code.lines().any(|line| line.contains("derive(") && line.contains("EncodeLabelValue"));
        assert!(!(derived && in_derive), "{} derives EncodeLabelValue: write snake_case values", file.path);
        for (at, _) in code.match_indices("impl EncodeLabelValue for") {
            let body = &file.text[at..end_of_item(&code, at)];
            for value in strings(body) {
                seen += 1;
                assert!(is_snake_case(value), "{}: the label value {value:?}", file.path);
            }
        }
    }
    assert!(seen > 0 || !uses_labels(), "no label value was found: this test has lost sight of them");
}

#[test]
fn metric_names_are_snake_case() {
    let mut seen = 0;
    for file in product_sources().into_iter().filter(|file| file.text.contains("prometheus_client")) {
        for call in [".register(", "sub_registry_with_prefix(", "register_with_unit("] {
            for (at, _) in file.text.match_indices(call) {
                if let Some(name) = strings(&file.text[at..]).next() {
                    seen += 1;
                    assert!(is_snake_case(name), "{}: the metric {name:?}", file.path);
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} metrics were found: this test has lost sight of them");
}

fn product_sources() -> Vec<source::File> {
    let files = source::files("", &[".rs"]);
    files.into_iter().filter(|file| file.path.contains("src/") && !file.path.starts_with("tests/")).collect()
}

fn uses_labels() -> bool {
    product_sources().iter().any(|file| file.text.contains("EncodeLabelValue"))
}

/// The contents of simple string literals.
fn strings(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// Like `wrong_secret` or `2xx`.
fn is_snake_case(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
