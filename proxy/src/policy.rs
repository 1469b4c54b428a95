//! What a token may ask for. Pure: a request and permissions in, a denial or none out.
//!
//! An allow-list: every command names the scopes that it needs, and a key that can't be shown to be within
//! the prefix is outside of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::{Permissions, Scopes};

use crate::protocol::Parsed;
use crate::protocol::denial::Denial;
use crate::protocol::request::{Ask, Command, Key, KeyForm, Meta, Request, UntaggedCommand, Verb};
use crate::protocol::text::line::tokens;

/// Room for the longest key that is base64-encoded, decoded.
const DECODED_MAX: usize = 192;

/// What of a frame may not be forwarded. A store that is too large is not forwarded anyway; what is done
/// instead is a [`request`] of its own.
pub(crate) fn frame(permissions: &Permissions, parsed: &Parsed<'_>) -> Option<Denial> {
    match parsed {
        Parsed::Request(it) | Parsed::Stream { request: it, .. } => request(permissions, it),
        Parsed::UntaggedCommand(it) => alone(permissions, it),
        Parsed::Keys(keys) => {
            let needed = get(keys.exptime);
            let mut all = tokens(keys.line).map(Key::plain);
            lacks(permissions, needed).or_else(|| all.find_map(|key| outside(permissions, key)))
        }
        Parsed::Answer(_)
        | Parsed::NeedsVersion
        | Parsed::Swallow { .. }
        | Parsed::Close(_)
        | Parsed::Login => None,
    }
}

/// How many operations a frame is, to a plan that counts them: one for each key of a line. What the proxy
/// answers by itself is none, nor is what is done about a value that is too large.
pub(crate) fn cost(parsed: &Parsed<'_>) -> u64 {
    match parsed {
        Parsed::Request(_) | Parsed::Stream { .. } | Parsed::UntaggedCommand(_) => 1,
        Parsed::Keys(keys) => u64::try_from(tokens(keys.line).count()).unwrap_or(u64::MAX),
        Parsed::Answer(_)
        | Parsed::NeedsVersion
        | Parsed::Swallow { .. }
        | Parsed::Close(_)
        | Parsed::Login => 0,
    }
}

/// Whether a request may not be forwarded.
pub(crate) fn request(permissions: &Permissions, request: &Request<'_>) -> Option<Denial> {
    let needed = match &request.command {
        // Of the memcached behind; it has no key.
        Command::Version => return None,
        Command::Get { exptime } => get(*exptime),
        Command::Store(_)
        | Command::Delete { .. }
        | Command::Arithmetic { .. }
        | Command::Touch { .. }
        | Command::Invalidate => Scopes::WRITE,
        Command::Meta(meta) => meta_needs(meta),
    };
    lacks(permissions, needed).or_else(|| outside(permissions, request.key))
}

/// A `gat` changes the item that it reads.
fn get(exptime: Option<i32>) -> Scopes {
    if exptime.is_some() { Scopes::READ | Scopes::WRITE } else { Scopes::READ }
}

fn meta_needs(meta: &Meta<'_>) -> Scopes {
    /// To make what is missing, to give another exptime, to win the right to make it anew.
    const CHANGING: &[u8] = b"NTR";
    let changes =
        || tokens(meta.flags).any(|flag| flag.first().is_some_and(|letter| CHANGING.contains(letter)));
    match meta.verb {
        Verb::Get if changes() => Scopes::READ | Scopes::WRITE,
        Verb::Get => Scopes::READ,
        Verb::Set | Verb::Delete | Verb::Arithmetic => Scopes::WRITE,
    }
}

/// Statistics and flushes are about all keys: not for a token that has only some.
fn alone(permissions: &Permissions, alone: &UntaggedCommand<'_>) -> Option<Denial> {
    let whole = || permissions.prefix.is_some().then_some(Denial::OutsidePrefix);
    match alone.ask {
        Ask::Stats { .. } => lacks(permissions, Scopes::STATS).or_else(whole),
        Ask::FlushAll { .. } => lacks(permissions, Scopes::FLUSH).or_else(whole),
        Ask::Inspect { key, base64 } => {
            let form = if base64 { KeyForm::Base64 } else { KeyForm::Plain };
            lacks(permissions, Scopes::READ).or_else(|| outside(permissions, Key { bytes: key, form }))
        }
    }
}

/// The first of the needed scopes that is not there.
fn lacks(permissions: &Permissions, needed: Scopes) -> Option<Denial> {
    let names = [
        (Scopes::READ, Denial::NeedsRead),
        (Scopes::WRITE, Denial::NeedsWrite),
        (Scopes::FLUSH, Denial::NeedsFlush),
        (Scopes::STATS, Denial::NeedsStats),
    ];
    let missing = |scope| needed.contains(scope) && !permissions.scopes.contains(scope);
    names.into_iter().find(|(scope, _)| missing(*scope)).map(|(_, denial)| denial)
}

/// Compares a key as memcached stores it. Base64 counts only as everybody decodes it: memcached passes over
/// what it doesn't know, and one that did so differently would lead elsewhere.
fn outside(permissions: &Permissions, key: Key<'_>) -> Option<Denial> {
    let prefix = permissions.prefix.as_ref()?.as_bytes();
    let within = match key.form {
        KeyForm::Plain | KeyForm::Raw => key.bytes.starts_with(prefix),
        KeyForm::Base64 => {
            let mut decoded = [0; DECODED_MAX];
            STANDARD
                .decode_slice(key.bytes, &mut decoded)
                .is_ok_and(|len| decoded.get(..len).is_some_and(|stored| stored.starts_with(prefix)))
        }
    };
    (!within).then_some(Denial::OutsidePrefix)
}

#[cfg(test)]
mod tests;
