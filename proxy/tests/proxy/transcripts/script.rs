//! The format of transcripts:
//!
//! ```text
//! == what it shows [tags]
//! > get a              sent; ends in CRLF
//! > set a 0 0 3\       sent; a backslash at the end: no CRLF
//! < STORED             what must come, before more is sent
//! closed               the end: open, closed, or waits (open, in the middle of something)
//! ```
//!
//! `\r \n \t \0 \xNN \\ \{` stand for bytes, `{k*251}` for 251 times `k`. In replies `{?}` stands for any
//! number, `{*}` for the rest of the line, `{stats}` for any lines of statistics, `{a}` for a number that
//! is the same wherever `{a}` is, also in requests. Tags: `D-n` (the rule of docs/protocol.md by which
//! memcached replies differently) or `ours` (the same, without a rule), `binary` (lines as in
//! `binary.rs`), `unauthenticated` (before login; `{login}` and `{#login}` are a credential and its
//! length).

use super::binary;

#[derive(Debug)]
pub(crate) struct Transcript {
    /// Its file, line and title.
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) end: End,
}

#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) sent: Vec<Element>,
    pub(crate) expected: Vec<Element>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    Bytes(Vec<u8>),
    /// Digits that may differ in every run.
    Number,
    /// Digits that have this name.
    Named(String),
    /// The rest of the line.
    Line,
    /// Lines that begin with STAT, or binary messages with a key.
    Stats,
    /// The same as [`Element::Named`], as eight bytes.
    Cas(String),
    /// The length of [`Element::Body`] in four bytes.
    Length,
    Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Closed,
    Waits,
}

impl Transcript {
    pub(crate) fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    /// Whether memcached replies differently.
    pub(crate) fn differs(&self) -> bool {
        self.tags.iter().any(|tag| tag == "ours" || tag.starts_with("D-"))
    }

    pub(crate) fn is_binary(&self) -> bool {
        self.has("binary")
    }

    /// Whether requests contain values of earlier replies.
    pub(crate) fn uses_replies(&self) -> bool {
        let given = |name: &str| name.trim_start_matches('#') == "login";
        let names =
            |piece: &Element| matches!(piece, Element::Named(name) | Element::Cas(name) if !given(name));
        self.exchanges.iter().flat_map(|exchange| &exchange.sent).any(names)
    }
}

/// Parses all transcripts of a file.
pub(crate) fn read(file: &str, text: &str) -> Vec<Transcript> {
    let mut all: Vec<Transcript> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", number + 1);
        let complain = |what: &str| -> ! { panic!("{place}: {what}: {line}") };
        if let Some(title) = line.strip_prefix("== ") {
            let (title, tags) = title.split_once('[').unwrap_or((title, "]"));
            let Some(tags) = tags.strip_suffix(']') else { complain("tags without an end") };
            all.push(Transcript {
                name: format!("{place} {}", title.trim()),
                tags: tags.split_whitespace().map(str::to_owned).collect(),
                exchanges: Vec::new(),
                end: End::Open,
            });
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(transcript) = all.last_mut() else { complain("no transcript before this line") };
        let is_binary = transcript.is_binary();
        let exchanges = &mut transcript.exchanges;
        match (line, line.split_at_checked(2).unwrap_or((line, ""))) {
            ("open", _) => transcript.end = End::Open,
            ("closed", _) => transcript.end = End::Closed,
            ("waits", _) => transcript.end = End::Waits,
            (_, ("> " | ">", words)) => {
                if exchanges.last().is_none_or(|exchange| !exchange.expected.is_empty()) {
                    exchanges.push(Exchange::default());
                }
                let sent = if is_binary { binary::request(words) } else { text_line(words) };
                exchanges.last_mut().unwrap().sent.extend(sent);
            }
            (_, ("< " | "<", words)) => {
                let Some(exchange) = exchanges.last_mut() else { complain("nothing has been sent") };
                exchange.expected.extend(if is_binary { binary::reply(words) } else { text_line(words) });
            }
            _ => complain("no line of a transcript"),
        }
    }
    all
}

fn text_line(words: &str) -> Vec<Element> {
    match words.strip_suffix('\\') {
        Some(words) => elements(words),
        None => elements(&format!("{words}\\r\\n")),
    }
}

/// Parses bytes and placeholders.
pub(crate) fn elements(text: &str) -> Vec<Element> {
    let mut all = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => rest = escape(rest, &mut bytes),
            '{' => {
                let end = rest.find('}').unwrap_or_else(|| panic!("{text}: a brace without its other"));
                let name = &rest[..end];
                rest = &rest[end + 1..];
                if let Some((unit, times)) = name.rsplit_once('*').filter(|(unit, _)| !unit.is_empty()) {
                    bytes.extend(plain(unit).repeat(times.parse().unwrap()));
                    continue;
                }
                all.push(Element::Bytes(std::mem::take(&mut bytes)));
                all.push(match name {
                    "?" => Element::Number,
                    "*" => Element::Line,
                    "stats" => Element::Stats,
                    name => Element::Named(name.to_owned()),
                });
            }
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    all.push(Element::Bytes(bytes));
    all
}

/// Parses bytes without placeholders.
pub(crate) fn plain(text: &str) -> Vec<u8> {
    let only = |piece| match piece {
        Element::Bytes(bytes) => bytes,
        other => panic!("{text}: {other:?} can't stand here"),
    };
    elements(text).into_iter().flat_map(only).collect()
}

fn escape<'a>(rest: &'a str, bytes: &mut Vec<u8>) -> &'a str {
    let (name, rest) = rest.split_at(1);
    match name {
        "r" => bytes.push(b'\r'),
        "n" => bytes.push(b'\n'),
        "t" => bytes.push(b'\t'),
        "0" => bytes.push(0),
        "\\" => bytes.push(b'\\'),
        "{" => bytes.push(b'{'),
        "x" => {
            let (digits, rest) = rest.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            return rest;
        }
        other => panic!("\\{other} is no escape"),
    }
    rest
}
