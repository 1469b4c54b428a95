//! The meta protocol, as the proxy should read it. What is wrong with flags versions before 1.6.45 say in
//! words of their own, or don't see.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::text::{BAD_CHUNK, BAD_FORMAT, KEY_MAX, ends, length_of};
use super::{Change, Column, Frame, Rule, is_blank, number_in, overruns, too_large};

/// memcached reads no more words of a line.
const WORDS_READ: usize = 23;
const WORDS_MAX: usize = 15;
const OPAQUE_MAX: usize = 32;

pub(super) const VERBS: [&[u8]; 6] = [b"mg", b"ms", b"md", b"ma", b"mn", b"me"];

/// The line `whole` of `words`, and what may be its data block.
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
    let &[key, length, ref flags @ ..] = words else { return Frame::of(head, ends(BAD_FORMAT)) };
    let begins_well =
        |flag: &&[u8]| flag.first().is_some_and(|first| matches!(first, b'A'..=b'z' | b'0'..=b'9'));
    // D-3
    let Some(value) = length_of(length).filter(|_| flags.iter().take(WORDS_READ - 3).all(begins_well)) else {
        return Frame::of(head, ends(BAD_FORMAT));
    };
    let Some(block) = data.get(..value + 2) else { return Frame::of(head + data.len(), Rule::Waits) };
    let flags = Flags { verb: b's', key, words: flags };
    let frame = flags.frame(head + block.len(), column, &block[..value]);
    let stored = flags.stored_key().len();
    let client_flags = flags.number(b'F').and_then(|flags| u32::try_from(flags).ok()).unwrap_or(0);
    let extends = matches!(frame.change, Change::Shows(_));
    let is_whole = block.ends_with(b"\r\n");
    let rule = if !flags.are_good() && !is_whole {
        // memcached reads more keys in base64 than are any.
        Rule::Stop
    } else if !flags.are_good() || too_large(stored, value, client_flags) {
        frame.rule
    } else if !is_whole {
        ends(BAD_CHUNK)
    } else if is_blank(&block[..value]) || (extends && overruns(stored, value, client_flags)) {
        Rule::Stop
    } else {
        frame.rule
    };
    Frame { rule, ..frame }
}

/// A key and the words behind it.
struct Flags<'a, 'b> {
    /// The second letter.
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
            Column::Old if !is_active || shows_vivified || has_long_mode => Rule::Stop,
            _ => Rule::Same,
        };
        let key = self.stored_key();
        // memcached tells a key raw, line ends and all, when `mg` has made the item; the proxy as the caller
        // names it.
        let asks = self.has(b'b') && (self.verb == b'e' || (self.verb == b'g' && self.has(b'k')));
        let cannot_stand = |key: Vec<u8>| key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
        let may_be_raw = asks && STANDARD.decode(self.key).map_or(true, cannot_stand);
        // memcached has done what was asked, and then says that the opaque is too long; the proxy does nothing.
        let has_long_opaque = self.argument(b'O').is_some_and(|opaque| opaque.len() >= OPAQUE_MAX);
        let rule = if may_be_raw || has_long_opaque { Rule::Stop } else { rule };
        let change = match (self.verb, self.mode()) {
            (b'a', _) if self.has(b'T') => Change::CountsAndTouches(key.clone()),
            (b'a', _) => Change::Counts(key.clone()),
            (b'e', _) => Change::Shows(key.clone()),
            // Counted in its place an item is as fetched and as encoded as it was, as a new one it isn't.
            (b'g', _) if b"shlk".iter().any(|letter| self.has(*letter)) => Change::Shows(key.clone()),
            (b's', Some(b'A' | b'a' | b'P' | b'p')) => Change::Shows(key.clone()),
            (b's' | b'd', _) if self.has(b'I') => Change::Stales(key.clone()),
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

    /// What each verb has known for long.
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
        // `me` writes times the other way round there.
        self.verb == b'e' || self.words.iter().any(is_newer)
    }

    /// Whether nobody could find fault with them.
    fn are_good(&self) -> bool {
        let is_active = |word: &&[u8]| {
            let Some((letter, argument)) = word.split_first() else { return false };
            let digits = |longest: usize| {
                (1..=longest).contains(&argument.len()) && argument.iter().all(u8::is_ascii_digit)
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

    /// Whether there is one among them that no version knows.
    fn are_unknown(&self) -> bool {
        let known = b"bNTRCEJDFMOqPLkstcfvhluxI";
        self.words.iter().any(|word| word.first().is_some_and(|letter| !known.contains(letter)))
    }
}
