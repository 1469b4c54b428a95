//! Transcripts as they stand in files:
//!
//! ```text
//! == what it shows [tags]
//! > get a              sent; ends in CRLF
//! > set a 0 0 3\       sent; a backslash at the end: no CRLF
//! < STORED             what must come, before more is sent
//! closed               the end: open, closed, or waits (open, in the middle of something)
//! ```
//!
//! `\r \n \t \0 \xNN \\ \{` are bytes, `{k*251}` is 251 times a `k`. In what must come `{?}` is a number, `{*}`
//! the rest of the line, `{stats}` any lines of statistics, `{a}` a number that is the same wherever `{a}` is,
//! and may be sent. Tags: `D-n` or
//! `ours` (memcached says something else), `binary` (lines as in `binary.rs`), `stranger` (before login;
//! `{login}` and `{#login}` are what logs in and its length).

use super::binary;

#[derive(Debug)]
pub(crate) struct Transcript {
    /// Its file, line and title.
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) end: End,
}

#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) sent: Vec<Piece>,
    pub(crate) expected: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Digits, which may be another number every time.
    Number,
    /// Digits that have this name.
    Named(String),
    /// The rest of the line.
    Line,
    /// Lines that begin with STAT, or binary messages with a key.
    Stats,
    /// The same as [`Piece::Named`], as eight bytes.
    Cas(String),
    /// Four bytes that say how long [`Piece::Body`] is.
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

    /// Whether memcached itself says otherwise.
    pub(crate) fn differs(&self) -> bool {
        self.tags.iter().any(|tag| tag == "ours" || tag.starts_with("D-"))
    }

    pub(crate) fn is_binary(&self) -> bool {
        self.has("binary")
    }

    /// Whether what is sent depends on what came before.
    pub(crate) fn looks_back(&self) -> bool {
        let given = |name: &str| name.trim_start_matches('#') == "login";
        let names = |piece: &Piece| matches!(piece, Piece::Named(name) | Piece::Cas(name) if !given(name));
        self.turns.iter().flat_map(|turn| &turn.sent).any(names)
    }
}

/// All transcripts of a file.
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
                turns: Vec::new(),
                end: End::Open,
            });
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(transcript) = all.last_mut() else { complain("no transcript has begun") };
        let is_binary = transcript.is_binary();
        let turns = &mut transcript.turns;
        match (line, line.split_at_checked(2).unwrap_or((line, ""))) {
            ("open", _) => transcript.end = End::Open,
            ("closed", _) => transcript.end = End::Closed,
            ("waits", _) => transcript.end = End::Waits,
            (_, ("> " | ">", words)) => {
                if turns.last().is_none_or(|turn| !turn.expected.is_empty()) {
                    turns.push(Turn::default());
                }
                let sent = if is_binary { binary::request(words) } else { text_line(words) };
                turns.last_mut().unwrap().sent.extend(sent);
            }
            (_, ("< " | "<", words)) => {
                let Some(turn) = turns.last_mut() else { complain("nothing has been sent") };
                turn.expected.extend(if is_binary { binary::reply(words) } else { text_line(words) });
            }
            _ => complain("no line of a transcript"),
        }
    }
    all
}

fn text_line(words: &str) -> Vec<Piece> {
    match words.strip_suffix('\\') {
        Some(words) => pieces(words),
        None => pieces(&format!("{words}\\r\\n")),
    }
}

/// Bytes and what stands for others.
pub(crate) fn pieces(text: &str) -> Vec<Piece> {
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
                all.push(Piece::Bytes(std::mem::take(&mut bytes)));
                all.push(match name {
                    "?" => Piece::Number,
                    "*" => Piece::Line,
                    "stats" => Piece::Stats,
                    name => Piece::Named(name.to_owned()),
                });
            }
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    all.push(Piece::Bytes(bytes));
    all
}

/// Bytes, and nothing that stands for others.
pub(crate) fn plain(text: &str) -> Vec<u8> {
    let only = |piece| match piece {
        Piece::Bytes(bytes) => bytes,
        other => panic!("{text}: {other:?} can't stand here"),
    };
    pieces(text).into_iter().flat_map(only).collect()
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
