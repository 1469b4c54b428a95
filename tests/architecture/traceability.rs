//! Rules of docs/ and the tests that prove them: each citation names a rule, and each rule is cited by a test.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, Source};

const DOCUMENTS: [&str; 2] = ["docs/protocol.md", "docs/security.md"];

/// What a rule of each letter is about; the documents define them.
const SERIES: &str = "ABDFGLMPRSTVW";

/// One rule: whether a test has to cite it.
struct Rule {
    needs_test: bool,
}

#[test]
fn every_citation_names_a_rule() {
    let rules = rules();
    let mut unknown = Vec::new();
    for (place, id) in citations() {
        if !rules.contains_key(&id) {
            unknown.push(format!("{place}: {id}"));
        }
    }
    assert!(unknown.is_empty(), "citations of rules that docs/ doesn't have:\n{}", unknown.join("\n"));
}

#[test]
fn every_rule_is_cited_by_a_test() {
    let cited: BTreeSet<String> =
        citations().into_iter().filter(|(place, _)| is_test(place)).map(|(_, id)| id).collect();
    let missing: Vec<String> = rules()
        .into_iter()
        .filter(|(id, rule)| rule.needs_test && !cited.contains(id))
        .map(|(id, _)| id)
        .collect();
    assert!(missing.is_empty(), "no test cites {}", missing.join(", "));
}

#[test]
fn rules_are_numbered_without_gaps_and_have_a_known_status() {
    let rules = rules();
    for letter in SERIES.chars() {
        let count = rules.keys().filter(|id| id.starts_with(letter)).count();
        assert!(count > 0, "no rule {letter}-1");
        for number in 1..=count {
            assert!(rules.contains_key(&format!("{letter}-{number}")), "there is no {letter}-{number}");
        }
    }
}

#[test]
fn documents_that_are_not_here_are_not_cited() {
    const ELSEWHERE: [&str; 4] = ["PROTOCOL", "DESIGN", "PERFORMANCE", "SECURITY"];
    for (place, line) in commented_lines() {
        for name in ELSEWHERE {
            let cites = line.match_indices(name).any(|(at, _)| {
                let rest = &line[at + name.len()..];
                let word = rest.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty());
                let section = word.is_some_and(|word| {
                    word.starts_with(|c: char| c.is_ascii_digit()) || word == "D" || word == "R"
                });
                let own_word =
                    line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
                own_word
                    && !rest.starts_with('_')
                    && (section || rest.starts_with(", ") || rest.starts_with(": "))
            });
            assert!(!cites, "{place} cites {name}: cite a rule of docs/");
        }
    }
}

/// The rules that the documents define: at the beginning of a list item, of a table's row, or of a heading.
fn rules() -> BTreeMap<String, Rule> {
    let mut found = BTreeMap::new();
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
            found.insert(id.clone(), Rule { needs_test: !has_status(document, &id, &text) });
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

fn has_status(document: &str, id: &str, text: &str) -> bool {
    let Some((_, status)) = text.split_once("Status: ") else { return false };
    let known = status.starts_with("open ") || status.starts_with("not testable here, because ");
    assert!(known, "{document}: {id} has the unknown status {status:?}");
    true
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
    let mut add = |path: &str, text: &str, test_from: usize| {
        for (number, line) in text.lines().enumerate() {
            let test = if number + 1 >= test_from { " (test)" } else { "" };
            found.push((format!("{path}:{}{test}", number + 1), line.to_owned()));
        }
    };
    for file in
        source::files("", &[".md", ".rs", ".sh", ".py", ".js", ".php", ".txt", ".sql", ".html", ".toml"])
    {
        if file.path.ends_with(".rs") {
            let source = Source::parse(&file.text);
            add(&file.path, &source.comments, tests_begin(&file.path, &source.code));
        } else if file.path.ends_with(".txt") {
            let lines = file.text.lines().map(|line| if line.starts_with(['#', '=']) { line } else { "" });
            let test_from = if file.path.contains("/transcripts/") { 0 } else { usize::MAX };
            add(&file.path, &lines.collect::<Vec<_>>().join("\n"), test_from);
        } else {
            add(&file.path, &file.text, usize::MAX);
        }
    }
    for file in source::files("deploy", &[""]) {
        add(&file.path, &file.text, usize::MAX);
    }
    found
}

/// The first line of a file that is compiled for tests only.
fn tests_begin(path: &str, code: &str) -> usize {
    let test_file = path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("tests/");
    if test_file && !path.ends_with("traceability.rs") {
        return 0;
    }
    code.lines().position(|line| line.contains("#[cfg(test)]")).map_or(usize::MAX, |at| at + 1)
}

fn is_test(place: &str) -> bool {
    place.ends_with("(test)")
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
