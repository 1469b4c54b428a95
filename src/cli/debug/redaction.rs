//! Takes secrets out of text that memgate didn't write for others: logs, and errors of databases. They shouldn't be there; this
//! is the second fence.

use std::collections::BTreeSet;

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// Shorter texts are left alone: a password `a` would leave nothing to read.
const LENGTH_MIN: usize = 6;
/// What tokens and API keys begin with, up to their id.
const TOKENS: [&str; 2] = ["mg_", "mgk_"];
/// Characters of a token's id.
const ID_LENGTH: usize = 12;
/// Shorter words aren't taken for keys.
const KEY_LENGTH_MIN: usize = 40;

/// Hides known secrets, and what looks like one.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    /// The longest first: one may contain another.
    secrets: Vec<String>,
}

impl Redaction {
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets: BTreeSet<String> =
            secrets.into_iter().filter(|secret| secret.len() >= LENGTH_MIN).collect();
        let mut secrets: Vec<String> = secrets.into_iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    pub(super) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        text.split_inclusive('\n').map(hide_in_line).collect()
    }
}

fn hide_in_line(line: &str) -> String {
    let is_part = |c: char| !c.is_whitespace() && !"\"'`()[]{}<>,;=".contains(c);
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find(is_part) {
        let (between, word) = rest.split_at(start);
        let (word, after) = word.split_at(word.find(|c| !is_part(c)).unwrap_or(word.len()));
        shown.push_str(between);
        shown.push_str(&hide_in_word(word));
        rest = after;
    }
    shown.push_str(rest);
    shown
}

/// Hides the secret half of tokens, passwords of addresses, and e-mail addresses.
fn hide_in_word(word: &str) -> String {
    if is_like_a_key(word) {
        return HIDDEN.to_owned();
    }
    for prefix in TOKENS {
        if let Some(start) = word.find(prefix) {
            let end = start + prefix.len() + ID_LENGTH;
            if let Some(id) = word.get(..end)
                && word.len() > end
            {
                return format!("{id}_{HIDDEN}");
            }
        }
    }
    match word.split_once('@') {
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{HIDDEN}@{host}"),
            None if host.contains('.') => format!("{HIDDEN}@{HIDDEN}"),
            None => word.to_owned(),
        },
        None => word.to_owned(),
    }
}

/// Whether a word looks like a line of a key: long, and in base64. A digest has no capital letters.
fn is_like_a_key(word: &str) -> bool {
    let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
    word.len() >= KEY_LENGTH_MIN
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let redaction = Redaction::new(["hunter2hunter2".to_owned(), "x".to_owned(), "hunter2".to_owned()]);
        for (text, shown) in [
            ("password hunter2hunter2!", "password ***!"),
            ("token=\"mg_0123456789ab_secretsecret\" x", "token=\"mg_0123456789ab_***\" x"),
            ("mgk_0123456789ab_secret", "mgk_0123456789ab_***"),
            ("id mg_0123456789ab", "id mg_0123456789ab"),
            ("postgres://a:b@c/d", "postgres://***@c/d"),
            ("mail to <ada@example.org>, twice", "mail to <***@***>, twice"),
            ("a@b", "a@b"),
            ("key=MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg", "key=***"),
            ("line\nhunter2\n", "line\n***\n"),
        ] {
            assert_eq!(redaction.apply(text), shown);
        }
    }
}
