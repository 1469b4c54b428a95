//! The meta protocol as the proxy should parse it. Versions before 1.6.45 report errors in flags with
//! other texts, or not at all.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::text::{BAD_CHUNK, BAD_FORMAT, KEY_MAX, length_of, proxy_closes};
use super::{Change, Column, Frame, Rule, is_blank, number_in, overruns, too_large};

/// memcached reads only the first words of a line.
const WORDS_READ_MAX: usize = 23;
const WORDS_MAX: usize = 15;
const OPAQUE_MAX: usize = 32;

pub(super) const VERBS: [&[u8]; 6] = [b"mg", b"ms", b"md", b"ma", b"mn", b"me"];

/// Parses the line `whole`, split into `words`; `data` follows it.
pub(super) fn read<'a>(whole: &[u8], words: &[&'a [u8]], data: &'a [u8], column: Column) -> Frame<'a> {
    let same = Frame::of(whole.len(), Rule::Same);
    match words {
        [b"mn", ..] => same,
        [b"ms", rest @ ..] => store(whole, rest, data, column),
        [_, key, flags @ ..] => {
            let flags = Flags { verb: words[0][1], key, words: flags };
            flags.frame(whole.len(), column, data)
        }
        _ => Frame { newer: true, ..same },
    }
}

fn store<'a>(whole: &[u8], words: &[&'a [u8]], data: &'a [u8], column: Column) -> Frame<'a> {
    let head = whole.len();
    let &[key, length, ref flags @ ..] = words else { return Frame::of(head, proxy_closes(BAD_FORMAT)) };
    let begins_well =
        |flag: &&[u8]| flag.first().is_some_and(|first| matches!(first, b'A'..=b'z' | b'0'..=b'9'));
    // D-3
    let Some(value) = length_of(length).filter(|_| flags.iter().take(WORDS_READ_MAX - 3).all(begins_well))
    else {
        return Frame::of(head, proxy_closes(BAD_FORMAT));
    };
    let Some(block) = data.get(..value + 2) else { return Frame::of(head + data.len(), Rule::Incomplete) };
    let flags = Flags { verb: b's', key, words: flags };
    let frame = flags.frame(head + block.len(), column, &block[..value]);
    let stored = flags.stored_key().len();
    let client_flags = flags.number(b'F').and_then(|flags| u32::try_from(flags).ok()).unwrap_or(0);
    let extends = matches!(frame.change, Change::Concatenates(_));
    let is_whole = block.ends_with(b"\r\n");
    let rule = if !flags.are_good() && !is_whole {
        // memcached decodes some invalid base64 keys.
        Rule::Skip
    } else if !flags.are_good() || too_large(stored, value, client_flags) {
        frame.rule
    } else if !is_whole {
        proxy_closes(BAD_CHUNK)
    } else if is_blank(&block[..value]) || (extends && overruns(stored, value, client_flags)) {
        Rule::Skip
    } else {
        frame.rule
    };
    Frame { rule, ..frame }
}

/// A key and the flags behind it.
struct Flags<'a, 'b> {
    /// The verb's second letter.
    verb: u8,
    key: &'a [u8],
    words: &'b [&'a [u8]],
}

impl<'a> Flags<'a, '_> {
    fn frame(&self, length: usize, column: Column, data: &[u8]) -> Frame<'a> {
        let is_active = self.are_good();
        let shows_vivified = matches!(self.verb, b'g' | b'a') && self.has(b'N') && self.has(b'q');
        let has_long_mode = self.argument(b'M').is_some_and(|mode| mode.len() > 1);
        let rule = match column {
            Column::Older if !is_active || shows_vivified || has_long_mode => Rule::Skip,
            _ => Rule::Same,
        };
        let key = self.stored_key();
        // When `mg` creates the item, memcached returns its key raw, line ends included; the proxy
        // returns it as the client sent it.
        let asks = self.has(b'b') && (self.verb == b'e' || (self.verb == b'g' && self.has(b'k')));
        let cannot_stand = |key: Vec<u8>| key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
        let may_be_raw = asks && STANDARD.decode(self.key).map_or(true, cannot_stand);
        // memcached executes the command before it reports that the opaque is too long; the proxy
        // doesn't execute it.
        let has_long_opaque = self.argument(b'O').is_some_and(|opaque| opaque.len() >= OPAQUE_MAX);
        let rule = if may_be_raw || has_long_opaque { Rule::Skip } else { rule };
        let change = match (self.verb, self.mode()) {
            (b'a', _) if self.has(b'T') => Change::ArithmeticWithTtl(key.clone()),
            (b'a', _) => Change::Arithmetic(key.clone()),
            (b'e', _) => Change::Concatenates(key.clone()),
            // An item updated in place keeps its fetched and base64 marks; a new one has none.
            (b'g', _) if b"shlk".iter().any(|letter| self.has(*letter)) => Change::Concatenates(key.clone()),
            (b's', Some(b'A' | b'a' | b'P' | b'p')) => Change::Concatenates(key.clone()),
            (b's' | b'd', _) if self.has(b'I') => Change::MarksStale(key.clone()),
            _ => Change::None,
        };
        let counted = [b'D', b'J'].map(|letter| self.number(letter).unwrap_or(0));
        let highest = counted.into_iter().chain([number_in(data)]).max().unwrap_or(0);
        Frame {
            length,
            rule,
            change,
            highest: if self.verb == b's' || self.verb == b'a' { highest } else { 0 },
            newer: self.are_newer(),
            marks: self.has(b'N') || self.has(b'R'),
            reads: if self.verb == b'g' { vec![key.clone()] } else { Vec::new() },
            writes: (self.verb != b'g').then_some(key),
        }
    }

    fn argument(&self, letter: u8) -> Option<&'a [u8]> {
        self.words.iter().find_map(|word| word.strip_prefix(&[letter]))
    }

    fn has(&self, letter: u8) -> bool {
        self.argument(letter).is_some()
    }

    fn mode(&self) -> Option<u8> {
        self.argument(b'M')?.first().copied()
    }

    fn number(&self, letter: u8) -> Option<u64> {
        std::str::from_utf8(self.argument(letter)?).ok()?.parse().ok()
    }

    fn stored_key(&self) -> Cow<'a, [u8]> {
        let decoded = self.has(b'b').then(|| STANDARD.decode(self.key).ok()).flatten();
        decoded.map_or(Cow::Borrowed(self.key), Cow::Owned)
    }

    /// The flags that all versions know, per verb.
    fn own_letters(&self) -> &'static [u8] {
        match self.verb {
            b'g' => b"bkOqvfstchluNRT",
            b's' => b"bkOqcCFTMI",
            b'a' => b"bkOqvtcNJDTMC",
            b'd' => b"bkOqCIT",
            _ => b"",
        }
    }

    fn are_newer(&self) -> bool {
        let is_newer = |word: &&[u8]| word.first().is_some_and(|letter| !self.own_letters().contains(letter));
        // Older versions swap the times of `me`.
        self.verb == b'e' || self.words.iter().any(is_newer)
    }

    /// Whether every version accepts them.
    fn are_good(&self) -> bool {
        let is_active = |word: &&[u8]| {
            let Some((letter, argument)) = word.split_first() else { return false };
            let digits = |len_max: usize| {
                (1..=len_max).contains(&argument.len()) && argument.iter().all(u8::is_ascii_digit)
            };
            let text = std::str::from_utf8(argument).unwrap_or("x");
            match letter {
                b'T' | b'N' | b'R' => !argument.starts_with(b"+") && text.parse::<i32>().is_ok(),
                b'C' | b'E' | b'J' | b'D' => digits(20) && text.parse::<u64>().is_ok(),
                b'F' => digits(10) && text.parse::<u32>().is_ok(),
                b'O' => word.len() <= OPAQUE_MAX,
                b'M' => self.mode().is_some_and(|mode| match self.verb {
                    b's' => b"EAPRS".contains(&mode),
                    b'a' => b"ID+-".contains(&mode),
                    _ => true,
                }),
                b'b' => STANDARD.decode(self.key).is_ok_and(|key| !key.is_empty()),
                _ => true,
            }
        };
        let mut letters: Vec<_> = self.words.iter().map(|word| word.first()).collect();
        letters.sort();
        self.key.len() <= KEY_MAX
            && self.words.len() < WORDS_MAX
            && letters.windows(2).all(|two| two[0] != two[1])
            && self.words.iter().all(is_active)
            && !self.are_unknown()
    }

    /// Whether one of them is unknown to all versions.
    fn are_unknown(&self) -> bool {
        let known = b"bNTRCEJDFMOqPLkstcfvhluxI";
        self.words.iter().any(|word| word.first().is_some_and(|letter| !known.contains(letter)))
    }
}
