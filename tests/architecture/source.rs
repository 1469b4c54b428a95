//! Files of the repository, and Rust sources split into code and comments.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing written by hand.
const SKIPPED: [&str; 8] =
    ["target", "data", ".git", "corpus", "seeds", "artifacts", "node_modules", "__pycache__"];

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One file of the repository: its path below the root, with `/`, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Files at or below `name` (a path below the root, or "" for all) whose name ends in one of `endings`.
pub(crate) fn files(name: &str, endings: &[&str]) -> Vec<File> {
    let mut paths = Vec::new();
    collect(&root().join(name), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            let wanted = endings.iter().any(|ending| path.ends_with(ending));
            wanted.then(|| File { text: fs::read_to_string(root().join(&path)).unwrap(), path })
        })
        .collect()
}

/// Rust files of a module: `name.rs` and all below the folder `name`.
pub(crate) fn module(name: &str) -> Vec<File> {
    [files(&format!("{name}.rs"), &[".rs"]), files(name, &[".rs"])].into_iter().flatten().collect()
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_path_buf());
    } else if let Ok(entries) = fs::read_dir(path) {
        for path in entries.flatten().map(|entry| entry.path()) {
            if !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                collect(&path, found);
            }
        }
    }
}

/// A Rust source whose parts keep their lines and columns; all that belongs to another part is blank.
pub(crate) struct Source {
    pub(crate) code: String,
    pub(crate) comments: String,
    pub(crate) strings: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Code,
    Comment,
    String,
}

impl Source {
    pub(crate) fn parse(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut parts = vec![Part::Code; bytes.len()];
        let mut at = 0;
        while at < bytes.len() {
            let (part, len) = token(bytes, at);
            parts[at..at + len].fill(part);
            at += len;
        }
        Self {
            code: keep(text, &parts, Part::Code),
            comments: keep(text, &parts, Part::Comment),
            strings: keep(text, &parts, Part::String),
        }
    }

    /// The code without what is compiled for tests only: those parts are blank.
    pub(crate) fn product_code(&self) -> String {
        const ATTRIBUTE: &str = "#[cfg(test)]";
        let mut code = self.code.clone();
        while let Some(start) = code.find(ATTRIBUTE) {
            let end = end_of_item(&code, start + ATTRIBUTE.len());
            let blank: String =
                code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
        code
    }
}

/// The text with each byte of another part replaced by a space.
fn keep(text: &str, parts: &[Part], wanted: Part) -> String {
    let mut kept = String::with_capacity(text.len());
    for (at, char) in text.char_indices() {
        let len = char.len_utf8();
        if char == '\n' || parts[at] == wanted {
            kept.push(char);
        } else {
            kept.extend(std::iter::repeat_n(' ', len));
        }
    }
    kept
}

/// What begins at `at`, and its length.
fn token(bytes: &[u8], at: usize) -> (Part, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        return (Part::Comment, len);
    }
    if rest.starts_with(b"/*") {
        return (Part::Comment, block_comment(rest));
    }
    let starts_word = at == 0 || !is_word(bytes[at - 1]);
    if starts_word && let Some(len) = raw_string(rest) {
        return (Part::String, len);
    }
    match rest[0] {
        b'"' => (Part::String, quoted(rest)),
        b'\'' => (Part::Code, character(rest)),
        _ => (Part::Code, 1),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `r"..."`, `br#"..."#` and the like.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = if rest.starts_with(b"br") { 2 } else { usize::from(rest.starts_with(b"r")) };
    if prefix == 0 {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let start = prefix + hashes;
    if rest.get(start) != Some(&b'"') {
        return None;
    }
    let end = [b"\"", vec![b'#'; hashes].as_slice()].concat();
    let body = &rest[start + 1..];
    let len = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    Some((start + 1 + len + end.len()).min(rest.len()))
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character such as `'"'`; a lifetime is one byte, the quote.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return end.map_or(1, |end| end + 4);
    }
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]);
    let len = text.chars().next().map_or(0, char::len_utf8);
    if rest.get(1 + len) == Some(&b'\'') { len + 2 } else { 1 }
}

/// Where the item that begins behind `at` ends: behind its `;`, or behind its last brace.
pub(crate) fn end_of_item(code: &str, at: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' if depth == 1 => return offset + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn a_source_is_split_into_code_comments_and_strings() {
    let text = "let a = \"// no\"; // yes\nlet b = '\"'; /* b /* c */ */ fn f<'a>() {} r#\"x\"#\n";
    let source = Source::parse(text);
    assert_eq!(
        source.comments.split_whitespace().collect::<Vec<_>>(),
        ["//", "yes", "/*", "b", "/*", "c", "*/", "*/"]
    );
    assert_eq!(source.strings.split_whitespace().collect::<Vec<_>>(), ["\"//", "no\"", "r#\"x\"#"]);
    assert!(source.code.contains("fn f<'a>() {}"));
    assert_eq!(source.code.len(), text.len());
}

#[test]
fn code_for_tests_is_left_out() {
    let source = Source::parse("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
    let code = source.product_code();
    assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b"));
    assert_eq!(code.lines().count(), 6);
}
