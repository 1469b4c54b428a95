//! Rules of docs/: they are numbered, and each citation names one that exists.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, Source};

const DOCUMENTS: [&str; 2] = ["docs/protocol.md", "docs/security.md"];

/// What a rule of each letter is about; the documents define them.
const SERIES: &str = "ABDFGLPRSTVW";

#[test]
fn every_citation_names_a_rule() {
    let rules = rules();
    let mut unknown = Vec::new();
    for (place, id) in citations() {
        if !rules.contains(&id) {
            unknown.push(format!("{place}: {id}"));
        }
    }
    assert!(unknown.is_empty(), "citations of rules that docs/ doesn't have:\n{}", unknown.join("\n"));
}

#[test]
fn rules_are_numbered_without_gaps_and_have_a_known_status() {
    let rules = rules();
    for letter in SERIES.chars() {
        let count = rules.iter().filter(|id| id.starts_with(letter)).count();
        assert!(count > 0, "no rule {letter}-1");
        for number in 1..=count {
            assert!(rules.contains(&format!("{letter}-{number}")), "there is no {letter}-{number}");
        }
    }
}

/// The rules that the documents define: at the beginning of a list item, of a table's row, or of a heading.
fn rules() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for document in DOCUMENTS {
        let file = source::files(document, &[".md"]).pop().unwrap();
        let mut text: BTreeMap<String, String> = BTreeMap::new();
        let mut current: Option<String> = None;
        for line in file.text.lines() {
            if let Some(id) = definition(line) {
                assert!(text.insert(id.clone(), String::new()).is_none(), "{document} defines {id} twice");
                current = Some(id);
            } else if line.is_empty() || line.starts_with(['#', '-', '|']) {
                current = None;
            }
            if let Some(id) = &current {
                text.entry(id.clone()).or_default().push_str(&format!("{line} "));
            }
        }
        for (id, text) in text {
            check_status(document, &id, &text);
            found.insert(id);
        }
    }
    found
}

/// The id of the rule that a line begins, if it does.
fn definition(line: &str) -> Option<String> {
    let id = if let Some(rest) = line.strip_prefix("- **") {
        rest.split_once("**")?.0
    } else if let Some(rest) = line.strip_prefix("| ") {
        rest.split_once(" |")?.0
    } else {
        line.strip_prefix("### ")?.split_once(' ')?.0
    };
    let mut ids = ids_in(id);
    (ids.len() == 1 && ids[0] == id).then(|| ids.remove(0))
}

fn check_status(document: &str, id: &str, text: &str) {
    if let Some((_, status)) = text.split_once("Status: ") {
        let known = status.starts_with("open ") || status.starts_with("not testable here, because ");
        assert!(known, "{document}: {id} has the unknown status {status:?}");
    }
}

/// Every mention of a rule in comments, titles of transcripts and documents, with its place.
fn citations() -> Vec<(String, String)> {
    let lines = commented_lines();
    lines
        .into_iter()
        .flat_map(|(place, line)| ids_in(&line).into_iter().map(move |id| (place.clone(), id)))
        .collect()
}

/// Lines in which rules are cited: documents, comments, and titles of transcripts.
fn commented_lines() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut add = |path: &str, text: &str| {
        for (number, line) in text.lines().enumerate() {
            found.push((format!("{path}:{}", number + 1), line.to_owned()));
        }
    };
    for file in
        source::files("", &[".md", ".rs", ".sh", ".py", ".js", ".php", ".txt", ".sql", ".html", ".toml"])
    {
        if file.path.ends_with(".rs") {
            let source = Source::parse(&file.text);
            add(&file.path, &source.comments);
        } else if file.path.ends_with(".txt") {
            let lines = file.text.lines().map(|line| if line.starts_with(['#', '=']) { line } else { "" });
            add(&file.path, &lines.collect::<Vec<_>>().join("\n"));
        } else {
            add(&file.path, &file.text);
        }
    }
    for file in source::files("deploy", &[""]) {
        add(&file.path, &file.text);
    }
    found
}

/// Ids of rules in a text, such as D-3; `D-1 to D-14` are those two.
fn ids_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('-') {
        let before: Vec<char> = text[..at].chars().rev().take(2).collect();
        let digits: String = text[at + 1..].chars().take_while(char::is_ascii_alphanumeric).collect();
        let number = digits.len() < 3 && !digits.starts_with('0') && digits.parse::<u8>().is_ok();
        let Some(letter) = before.first().filter(|letter| SERIES.contains(**letter)) else { continue };
        let own_word = before.get(1).is_none_or(|c| !(c.is_alphanumeric() || *c == '-' || *c == '_'));
        if number && own_word {
            found.push(format!("{letter}-{digits}"));
        }
    }
    found
}

#[test]
fn ids_are_found_in_text() {
    assert_eq!(ids_in("R-6, D-5 (F-12). SHA-256, P-256, UTF-8, T- and D-x are none"), ["R-6", "D-5", "F-12"]);
    assert_eq!(definition("- **D-3** After an error"), Some("D-3".to_owned()));
    assert_eq!(definition("| R-7 | U T | huge"), Some("R-7".to_owned()));
    assert_eq!(definition("### B-2 Text, lines"), Some("B-2".to_owned()));
    assert_eq!(definition("D-3 is cited"), None);
}
