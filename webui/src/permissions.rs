//! What a token may do, as it is chosen in a form and read in a list.

use serde::Deserialize;
use store::{Cidr, KeyPrefix, Millis, ParseCidrError, Permissions, Scopes};

use crate::date::day;

/// The part of a form that limits a token, as it was sent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// The form had the boxes: that none is ticked means something.
    boxes: Option<String>,
    read: Option<String>,
    write: Option<String>,
    flush: Option<String>,
    stats: Option<String>,
    pub(crate) prefix: String,
    /// How long from now on; for ever if empty.
    expires: String,
    /// Networks with spaces or commas between them.
    pub(crate) allow_from: String,
}

/// What a form offers: the value that is sent, and the words.
pub(crate) const LIFETIMES: [(&str, &str); 6] = [
    ("", "never"),
    ("1d", "in a day"),
    ("7d", "in a week"),
    ("30d", "in 30 days"),
    ("90d", "in 90 days"),
    ("365d", "in a year"),
];

/// Sent for the end that a token has now.
const KEEP: &str = "keep";

/// What the form of a token that ends then offers.
pub(crate) fn lifetimes(end: Option<Millis>) -> Vec<(&'static str, String)> {
    let now = end.map_or_else(|| "never, as now".to_owned(), |end| format!("as now: {}", day(end)));
    let others = LIFETIMES.into_iter().filter(|(value, _)| end.is_some() || !value.is_empty());
    [(KEEP, now)].into_iter().chain(others.map(|(value, words)| (value, words.to_owned()))).collect()
}

impl Limits {
    /// A form with what a token has: sent as it is, it changes nothing.
    pub(crate) fn of(permissions: &Permissions) -> Self {
        let box_of = |scope| permissions.scopes.contains(scope).then(|| "on".to_owned());
        let networks: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        Self {
            boxes: Some("1".to_owned()),
            read: box_of(Scopes::READ),
            write: box_of(Scopes::WRITE),
            flush: box_of(Scopes::FLUSH),
            stats: box_of(Scopes::STATS),
            prefix: permissions.prefix.as_ref().map_or_else(String::new, |prefix| prefix.as_str().to_owned()),
            expires: KEEP.to_owned(),
            allow_from: networks.join(" "),
        }
    }

    /// Whether the form was there: what an empty one leaves out must not lift a limit.
    pub(crate) fn is_whole(&self) -> bool {
        self.boxes.is_some()
    }

    /// What to do to the permissions that a token turns out to have, or what to change in the form.
    pub(crate) fn change(&self, now: Millis) -> Result<impl FnOnce(&mut Permissions) + use<>, String> {
        let keeps = self.expires == KEEP;
        let expires = if keeps { String::new() } else { self.expires.clone() };
        let chosen = Self { expires, ..self.clone() }.parse(now)?;
        Ok(move |permissions: &mut Permissions| {
            let expires_at = if keeps { permissions.expires_at } else { chosen.expires_at };
            *permissions = Permissions { expires_at, ..chosen };
        })
    }

    /// The permissions, or what to change.
    pub(crate) fn parse(&self, now: Millis) -> Result<Permissions, String> {
        let (prefix, expires_at) = (self.prefix()?, self.expires_at(now)?);
        Ok(Permissions { scopes: self.scopes()?, prefix, expires_at, allow_from: self.networks()? })
    }

    /// Whether what was sent in that field can't be used.
    pub(crate) fn is_wrong(&self, field: &str) -> bool {
        match field {
            "prefix" => self.prefix().is_err(),
            "expires" => self.expires != KEEP && self.expires_at(0).is_err(),
            "allow_from" => self.networks().is_err(),
            _ => self.scopes().is_err(),
        }
    }

    /// Whether a box is ticked: all are in a form that nobody has touched.
    pub(crate) fn has(&self, scope: &str) -> bool {
        let ticked = match scope {
            "read" => &self.read,
            "write" => &self.write,
            "flush" => &self.flush,
            _ => &self.stats,
        };
        ticked.is_some() || (self.boxes.is_none() && self.ticked() == Scopes::NONE)
    }

    /// Whether that is the chosen end.
    pub(crate) fn ends(&self, value: &str) -> bool {
        self.expires == value
    }

    fn prefix(&self) -> Result<Option<KeyPrefix>, &'static str> {
        match self.prefix.trim() {
            "" => Ok(None),
            typed => typed.parse().map(Some).map_err(
                |_| "No key begins like this. Write 1 to 200 bytes without spaces and control characters.",
            ),
        }
    }

    fn expires_at(&self, now: Millis) -> Result<Option<Millis>, &'static str> {
        match self.expires.trim() {
            "" => Ok(None),
            typed => match store::span(typed) {
                Ok(span) if span > 0 => Ok(Some(now.saturating_add(span))),
                _ => Err("Choose when the token ends from the list."),
            },
        }
    }

    fn ticked(&self) -> Scopes {
        [
            (&self.read, Scopes::READ),
            (&self.write, Scopes::WRITE),
            (&self.flush, Scopes::FLUSH),
            (&self.stats, Scopes::STATS),
        ]
        .into_iter()
        .filter(|(sent, _)| sent.is_some())
        .fold(Scopes::NONE, |scopes, (_, scope)| scopes | scope)
    }

    fn scopes(&self) -> Result<Scopes, &'static str> {
        match (self.ticked(), &self.boxes) {
            (Scopes::NONE, Some(_)) => Err("A token must be good for something. Tick at least one box."),
            (Scopes::NONE, None) => Ok(Scopes::ALL),
            (scopes, _) => Ok(scopes),
        }
    }

    fn networks(&self) -> Result<Vec<Cidr>, String> {
        let words =
            self.allow_from.split(|c: char| c.is_whitespace() || c == ',').filter(|it| !it.is_empty());
        let list = words.map(str::parse).collect::<Result<_, _>>().map_err(|error| in_sentences(&error))?;
        Permissions::networks(list).map_err(|_| "These are too many networks. Name at most 32.".to_owned())
    }
}

fn in_sentences(error: &ParseCidrError) -> String {
    let text = error.to_string();
    let (what, fix) = text.split_once(": ").unwrap_or((&text, ""));
    let mut letters = fix.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter();
    format!("{what}. {}.", first.chain(letters).collect::<String>())
}

/// What there is to say about a token's permissions; nothing if it has all.
pub(crate) fn in_words(permissions: &Permissions) -> Vec<String> {
    let mut words = Vec::new();
    if permissions.scopes != Scopes::ALL {
        words.push(format!("only {}", permissions.scopes.names().collect::<Vec<_>>().join(", ")));
    }
    words.extend(permissions.prefix.as_ref().map(|prefix| format!("keys {}…", prefix.as_str())));
    if !permissions.allow_from.is_empty() {
        let nets: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        words.push(format!("from {}", nets.join(", ")));
    }
    words.extend(permissions.expires_at.map(|end| format!("ends {}", day(end))));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_that_nobody_touched_limits_nothing() {
        assert_eq!(Limits::default().parse(0), Ok(Permissions::ALL));
        assert!(["read", "write", "flush", "stats"].iter().all(|scope| Limits::default().has(scope)));
        assert!(in_words(&Permissions::ALL).is_empty());
    }

    #[test]
    fn what_is_chosen_is_what_it_may() {
        let on = || Some("on".to_owned());
        let limits = Limits {
            boxes: on(),
            read: on(),
            prefix: " app: ".into(),
            expires: "1d".into(),
            allow_from: "10.0.0.0/8,\r\n ::1".into(),
            ..Limits::default()
        };
        let permissions = limits.parse(1000).unwrap();
        assert_eq!(permissions.scopes, Scopes::READ);
        assert_eq!(permissions.expires_at, Some(86_401_000));
        assert_eq!(
            in_words(&permissions),
            ["only read", "keys app:…", "from 10.0.0.0/8, ::1/128", "ends 2 Jan 1970"]
        );
        assert!(limits.has("read") && !limits.has("write"));
        for wrong in [
            Limits { read: None, ..limits.clone() },
            Limits { prefix: "a b".into(), ..limits.clone() },
            Limits { expires: "0s".into(), ..limits.clone() },
            Limits { expires: "soon".into(), ..limits.clone() },
        ] {
            assert!(wrong.parse(0).is_err(), "{wrong:?}");
        }
        let mut again = Permissions { expires_at: Some(5), ..Permissions::ALL };
        Limits::of(&permissions).change(0).unwrap()(&mut again);
        assert_eq!(again, Permissions { expires_at: Some(5), ..permissions }, "the end that it has by then");
        let wrong = Limits { allow_from: "10.0.0.1/8".into(), ..limits };
        let words = wrong.parse(0).unwrap_err();
        assert_eq!(
            words,
            "10.0.0.1/8 is not where a network begins. Write 10.0.0.0/8, or 10.0.0.1 for that one address."
        );
    }
}
