//! The text protocol as the proxy should parse it.

use memchr::{memchr, memchr2, memmem};

use super::{Change, Column, Frame, Rule, is_blank, meta, number_in, overruns, too_large};

const ERROR: &str = "ERROR\r\n";
pub(super) const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format\r\n";
pub(super) const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk\r\n";
const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument\r\n";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument\r\n";
const TOO_LONG: &str = "CLIENT_ERROR line too long\r\n";

pub(super) const KEY_MAX: usize = 250;
const KEYS_LINE_MAX: usize = 1024 * 1024;
const LINE_MAX: usize = 2048;
/// memcached looks for `noreply` only in the first words.
const WORDS_MAX: usize = 23;

const STORES: [&[u8]; 7] = [b"set", b"add", b"replace", b"append", b"prepend", b"cas", b"ms"];
/// Commands that memcached would run and the proxy doesn't know (D-2).
const REFUSED: [&[u8]; 8] = [
    b"shutdown",
    b"slabs",
    b"lru",
    b"lru_crawler",
    b"cache_memlimit",
    b"extstore",
    b"watch",
    b"refresh_certs",
];

/// Returns a request that every memcached answers with `words`.
fn substitute(words: &str) -> Vec<u8> {
    match words {
        "" => Vec::new(),
        ERROR => b"bogus\r\n".to_vec(),
        BAD_FORMAT => [b"delete ", &[b'K'; KEY_MAX + 1][..], b"\r\n"].concat(),
        BAD_DELTA => b"incr a x\r\n".to_vec(),
        BAD_EXPTIME => b"touch a x\r\n".to_vec(),
        other => panic!("nothing stands for {other}"),
    }
}

pub(super) fn first(input: &[u8], column: Column) -> Frame<'_> {
    let keys = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|verb| input.starts_with(verb));
    let len_max = if keys { KEYS_LINE_MAX } else { LINE_MAX };
    let whole = memchr(b'\n', input).map_or(input, |end| &input[..=end]);
    let line = whole.strip_suffix(b"\n").unwrap_or(whole);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > len_max {
        // D-5
        return Frame::of(whole.len(), proxy_closes(TOO_LONG));
    }
    if !whole.ends_with(b"\n") {
        return Frame::of(input.len(), Rule::Incomplete);
    }
    let data = &input[whole.len()..];
    let words: Vec<_> = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    let line = Line { whole, line, data, column };
    if !line.is_refused() && whole.len() >= 4 && meta::VERBS.contains(&words[0]) {
        return meta::read(whole, &words, data, column);
    }
    let (length, rule) = line.read();
    let (reads, writes) = match words.as_slice() {
        [b"get" | b"gets" | b"gat" | b"gats", keys @ ..] => {
            (keys.iter().map(|key| (*key).into()).collect(), None)
        }
        // The proxy's touch reads the item.
        [b"touch", key, ..] => (vec![(*key).into()], Some((*key).into())),
        [_, key, ..] => (Vec::new(), Some((*key).into())),
        _ => (Vec::new(), None),
    };
    let (change, highest) = (change_of(&words), highest_of(&words, data));
    Frame { rule, change, highest, reads, writes, ..Frame::of(length, Rule::Same) }
}

/// The number that a store stores, or that arithmetic adds.
fn highest_of(words: &[&[u8]], data: &[u8]) -> u64 {
    match words {
        [b"incr" | b"decr", _, delta, ..] => number_in(delta),
        [verb, ..] if STORES.contains(verb) => number_in(data),
        _ => 0,
    }
}

fn change_of<'a>(words: &[&'a [u8]]) -> Change<'a> {
    match words {
        [b"incr" | b"decr", key, ..] => Change::Arithmetic((*key).into()),
        [b"append" | b"prepend", key, ..] => Change::Concatenates((*key).into()),
        _ => Change::None,
    }
}

pub(super) fn proxy_closes(words: &str) -> Rule {
    Rule::ProxyCloses(words.as_bytes().to_vec())
}

struct Line<'a> {
    whole: &'a [u8],
    line: &'a [u8],
    data: &'a [u8],
    column: Column,
}

impl Line<'_> {
    fn words(&self) -> Vec<&[u8]> {
        self.line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect()
    }

    fn is_quiet(&self) -> bool {
        let words = self.words();
        words[words.len().min(WORDS_MAX) - 1] == b"noreply"
    }

    /// A line that the proxy rejects (D-4).
    fn is_refused(&self) -> bool {
        self.line.starts_with(b" ") || memchr2(0, b'\r', self.line).is_some()
    }

    /// The length of the request, and its rule.
    fn read(&self) -> (usize, Rule) {
        if self.is_refused() {
            let stores = STORES.iter().any(|verb| memmem::find(self.line, verb).is_some());
            let rule = if stores { proxy_closes(ERROR) } else { Rule::Replace(substitute(ERROR)) };
            return (self.whole.len(), rule);
        }
        if self.whole.len() < 4 {
            return (self.whole.len(), self.says(BAD_FORMAT, false));
        }
        let words = self.words();
        match words[0] {
            b"set" | b"add" | b"replace" | b"append" | b"prepend" => self.store(5),
            b"cas" => self.store(6),
            _ => (self.whole.len(), self.one_line(&words)),
        }
    }

    /// The rule of an error that memcached sends by itself since 1.6.45.
    fn says(&self, words: &str, quiet: bool) -> Rule {
        match self.column {
            Column::Reference => Rule::Same,
            Column::Older => Rule::Replace(substitute(if quiet { "" } else { words })),
        }
    }

    /// A valid request that older versions would reject as too long, or whose `noreply` they would
    /// take for the key.
    fn trimmed(&self, most: usize) -> Rule {
        let mut words = self.words();
        if self.column == Column::Reference || (words.len() <= most && !self.is_quiet()) {
            return Rule::Same;
        }
        words.truncate(most);
        if self.is_quiet() {
            words.push(b"noreply");
        }
        Rule::Replace([words.join(&b' '), b"\r\n".to_vec()].concat())
    }

    fn one_line(&self, words: &[&[u8]]) -> Rule {
        let quiet = self.is_quiet();
        let key_too_long = words.get(1).is_some_and(|key| key.len() > KEY_MAX);
        match words[0] {
            b"stats" => Rule::Skip,
            b"get" | b"gets" => self.keys(&words[1..]),
            b"gat" | b"gats" if words.len() < 3 => self.says(BAD_FORMAT, false),
            b"gat" | b"gats" if !is_number(words[1], 11, true) => self.says(BAD_EXPTIME, false),
            b"gat" | b"gats" => match self.keys(&words[2..]) {
                Rule::Same if words[1] == b"-" => self.with_zero(1),
                rule => rule,
            },
            b"incr" | b"decr" | b"touch" if words.len() < 3 => self.says(BAD_FORMAT, false),
            b"delete" if words.len() < 2 => self.says(BAD_FORMAT, false),
            b"incr" | b"decr" | b"touch" | b"delete" if key_too_long => self.says(BAD_FORMAT, quiet),
            b"incr" | b"decr" if !is_number(words[2], 22, false) => self.says(BAD_DELTA, quiet),
            b"touch" if !is_number(words[2], 11, true) => self.says(BAD_EXPTIME, quiet),
            b"touch" if words[2] == b"-" => self.with_zero(2),
            b"incr" | b"decr" | b"touch" => self.trimmed(3),
            b"delete" => self.trimmed(2),
            b"flush_all" => self.flush(&words[1..]),
            b"version" => Rule::Same,
            b"quit" => Rule::BothClose,
            b"verbosity" if !words.get(1).is_some_and(|level| is_number(level, 11, false)) => {
                self.says(BAD_FORMAT, quiet)
            }
            // The proxy acknowledges it and does nothing.
            b"verbosity" if quiet => Rule::Replace(Vec::new()),
            b"verbosity" => Rule::Replace(b"verbosity 0\r\n".to_vec()),
            _ if words.len() > 1 && words.last().is_some_and(|word| word.starts_with(b"HTTP/")) => {
                proxy_closes("")
            }
            verb if REFUSED.contains(&verb) => Rule::Replace(substitute(if quiet { "" } else { ERROR })),
            _ => self.says(ERROR, quiet),
        }
    }

    /// Replaces a lone minus, which older versions reject, by a 0.
    fn with_zero(&self, place: usize) -> Rule {
        if self.column == Column::Reference {
            return Rule::Same;
        }
        let mut words = self.words();
        words[place] = b"0";
        let line = [words.join(&b' '), b"\r\n".to_vec()].concat();
        let other = Line { whole: &line, line: line.trim_ascii_end(), ..*self };
        match other.trimmed(words.len().min(3)) {
            Rule::Replace(other) if place == 2 => Rule::Replace(other),
            _ => Rule::Replace(line),
        }
    }

    fn flush(&self, words: &[&[u8]]) -> Rule {
        match words {
            [] => Rule::Same,
            [b"noreply"] => Rule::Same,
            [delay, ..] if !is_number(delay, 11, true) => self.says(BAD_EXPTIME, self.is_quiet()),
            // It would take effect after the stream.
            [delay, ..] if lenient(delay).is_some_and(|delay| delay > 0) => Rule::Skip,
            _ => self.trimmed(2),
        }
    }

    fn keys(&self, keys: &[&[u8]]) -> Rule {
        if keys.iter().any(|key| key.len() > KEY_MAX) {
            // D-6
            return Rule::Replace(substitute(BAD_FORMAT));
        }
        if keys.is_empty() { self.says(BAD_FORMAT, false) } else { Rule::Same }
    }

    /// A storage command of at least `least` words, and its data block.
    fn store(&self, least: usize) -> (usize, Rule) {
        let words = self.words();
        let head = self.whole.len();
        let value = words.get(4).and_then(|digits| length_of(digits));
        let Some(value) = value.filter(|_| words.len() >= least) else {
            // D-3
            return (head, proxy_closes(BAD_FORMAT));
        };
        let Some(block) = self.data.get(..value + 2) else {
            return (head + self.data.len(), Rule::Incomplete);
        };
        if words[2..4].iter().any(|word| is_blank(word)) {
            // A number of tabs only: memcached reads on into the next word.
            return (head, Rule::Skip);
        }
        let quiet = self.is_quiet();
        let good = words[1].len() <= KEY_MAX
            && lenient(words[3]).is_some_and(|exptime| i64::try_from(exptime).is_ok())
            && flags_of(words[2]).is_some()
            && (least == 5 || is_number(words[5], 22, false));
        if !good {
            return (head + block.len(), self.says(BAD_FORMAT, quiet));
        }
        let flags = flags_of(words[2]).unwrap_or_default();
        if !too_large(words[1].len(), value, flags) && !block.ends_with(b"\r\n") {
            // D-3
            return (head, proxy_closes(if quiet { "" } else { BAD_CHUNK }));
        }
        let extends = matches!(words[0], b"append" | b"prepend");
        if is_blank(&block[..value]) || (extends && overruns(words[1].len(), value, flags)) {
            return (head, Rule::Skip);
        }
        let rule = match self.trimmed(least) {
            Rule::Replace(line) => Rule::Replace([&line, block].concat()),
            other => other,
        };
        (head + block.len(), rule)
    }
}

/// Parses the length of a data block: 1 to 10 plain digits.
pub(super) fn length_of(digits: &[u8]) -> Option<usize> {
    let plain = (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?;
    (length <= 2_147_483_645).then_some(length)
}

/// Whether `word` is a number of at most `len_max` characters that fits, with a minus if `signed`.
fn is_number(word: &[u8], len_max: usize, signed: bool) -> bool {
    if word.len() > len_max {
        return false;
    }
    let digits = if signed { word.strip_prefix(b"-").unwrap_or(word) } else { word };
    let text = std::str::from_utf8(word).unwrap_or("x");
    match (digits.iter().all(u8::is_ascii_digit), signed) {
        // memcached accepts an empty number.
        (true, true) => digits.is_empty() || text.parse::<i32>().is_ok(),
        (true, false) => text.parse::<u64>().is_ok(),
        (false, _) => false,
    }
}

/// Parses flags as C's strtoul and memcached do.
fn flags_of(word: &[u8]) -> Option<u32> {
    let value = match lenient(word)? {
        value if value < 0 => (value + (1 << 64)).try_into().ok().filter(|value| *value < 1_u64 << 63)?,
        value => u64::try_from(value).ok()?,
    };
    u32::try_from(value & 0xffff_ffff).ok()
}

/// Parses a number as C does: white space, a sign, digits, and nothing or white space behind them.
fn lenient(word: &[u8]) -> Option<i128> {
    let is_space = |byte: &u8| matches!(byte, b'\t' | 0x0b | 0x0c);
    let word = &word[word.iter().take_while(|byte| is_space(byte)).count()..];
    let (negative, digits) = match word.split_first()? {
        (b'-', digits) => (true, digits),
        (b'+', digits) => (false, digits),
        _ => (false, word),
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || digits.get(count).is_some_and(|byte| !is_space(byte)) {
        return None;
    }
    let value = std::str::from_utf8(&digits[..count]).ok()?.parse::<i128>().ok()?;
    Some(if negative { -value } else { value })
}
