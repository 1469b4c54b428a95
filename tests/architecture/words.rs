//! Names and prose: no coined identifier, no word that makes a sentence need reading twice.

use std::collections::BTreeSet;

use crate::source::{self, Source};

/// Identifiers that were replaced by terms of the field; a `*` at the end stands for any rest.
const COINED_NAMES: &str = include_str!("coined_names.txt");

/// Words and phrases that comments, documents, templates and messages do without.
const BANNED_WORDS: &str = include_str!("banned_words.txt");

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn no_coined_identifiers() {
    let exact: BTreeSet<&str> = entries(COINED_NAMES).filter(|name| !name.ends_with('*')).collect();
    let starts: Vec<&str> = entries(COINED_NAMES).filter_map(|name| name.strip_suffix('*')).collect();
    let mut found = Vec::new();
    for file in source::files("", &[".rs"]) {
        let code = Source::parse(&file.text).code;
        for (number, line) in code.lines().enumerate() {
            for name in line.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
                if exact.contains(name) || starts.iter().any(|start| name.starts_with(start)) {
                    found.push(format!("{}:{}: {name}", file.path, number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} coined names (coined_names.txt):\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_coined_file_names() {
    let coined: BTreeSet<String> = entries(COINED_NAMES).map(str::to_lowercase).collect();
    for file in source::files("", &[".rs"]) {
        let name = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        assert!(!coined.contains(name), "{}: {name} is a coined name", file.path);
    }
}

#[test]
fn no_banned_words() {
    let banned: Vec<&str> = entries(BANNED_WORDS).collect();
    let mut found = Vec::new();
    for (place, line) in prose() {
        let line = words_only(&line);
        for phrase in &banned {
            if line.contains(&format!(" {phrase} ")) {
                found.push(format!("{place}: {phrase}"));
            }
        }
    }
    assert!(found.is_empty(), "{} banned words (banned_words.txt):\n{}", found.len(), found.join("\n"));
}

/// Every line that is written for people, with its place.
fn prose() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut add = |path: &str, text: &str| {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            found.push((format!("{path}:{}", number + 1), line.to_owned()));
        }
    };
    for file in source::files("", &[".rs"]) {
        let source = Source::parse(&file.text);
        add(&file.path, &source.comments);
        if file.path.contains("src/") {
            add(&file.path, &source.strings);
        }
    }
    for file in source::files("", &[".md", ".html"]) {
        add(&file.path, &file.text);
    }
    for (folder, endings, mark) in [
        ("migrations", [".sql"].as_slice(), "--"),
        ("webui/assets", &[".js"], "//"),
        ("deploy", &[""], "#"),
        ("proxy/tests", &[".txt"], "#"),
    ] {
        for file in source::files(folder, endings) {
            let comments = file.text.lines().map(|line| line.split_once(mark).map_or("", |(_, rest)| rest));
            add(&file.path, &comments.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

/// The line in lower case, with one space before and behind each word.
fn words_only(line: &str) -> String {
    let words = line.to_lowercase().replace('’', "'");
    let words = words.split(|c: char| !(c.is_alphanumeric() || c == '\'')).filter(|word| !word.is_empty());
    format!(" {} ", words.collect::<Vec<_>>().join(" "))
}
