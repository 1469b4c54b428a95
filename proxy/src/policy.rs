//! Authorization: decides whether a token's permissions allow a request. Pure.
//!
//! An allow-list: every command has the scopes it needs, and a key that isn't proved to have the token's
//! prefix is denied.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::{Permissions, Scopes};

use crate::protocol::denial::Denial;
use crate::protocol::line::tokens;
use crate::protocol::request::{
    Command, Key, KeyForm, Meta, ReplyFormat, Request, UntaggedCommand, UntaggedKind, Verb,
};
use crate::protocol::{self, Parsed, Then};

/// Room for the longest base64-encoded key once decoded, in bytes.
const DECODED_MAX: usize = 192;

/// Why a frame may not be forwarded, if so. A store that is too large is never forwarded; the delete that takes
/// its place is checked with [`deny_request`].
pub(crate) fn deny_frame(permissions: &Permissions, parsed: &Parsed<'_>) -> Option<Denial> {
    match parsed {
        Parsed::Request(request) | Parsed::Stream { request, .. } => deny_request(permissions, request),
        Parsed::UntaggedCommand(command) => deny_untagged(permissions, command),
        Parsed::Keys(keys) => {
            let needed = get_scopes(keys.exptime);
            let mut keys = tokens(keys.line).map(Key::plain);
            missing_scope(permissions, needed)
                .or_else(|| keys.find_map(|key| outside_prefix(permissions, key)))
        }
        Parsed::LocalReply(_)
        | Parsed::NeedsVersion
        | Parsed::Swallow { .. }
        | Parsed::Close(_)
        | Parsed::Login => None,
    }
}

/// The operations that a frame costs, for the plan's rate limit: one, or one for each key. One whose meaning depends on
/// memcached's version costs none until that is known. A login over the rate is parsed again after its pause, which has
/// usually paid for it; if not, it waits once more.
pub(crate) fn cost(parsed: &Parsed<'_>) -> u64 {
    match parsed {
        Parsed::Keys(keys) => u64::try_from(tokens(keys.line).count()).unwrap_or(u64::MAX),
        Parsed::NeedsVersion => 0,
        Parsed::Request(_)
        | Parsed::Stream { .. }
        | Parsed::UntaggedCommand(_)
        | Parsed::LocalReply(_)
        | Parsed::Swallow { .. }
        | Parsed::Close(_)
        | Parsed::Login => 1,
    }
}

/// Whether memcached is asked, so that a frame over the rate is denied. The others get the reply that they always get.
pub(crate) fn is_forwarded(parsed: &Parsed<'_>) -> bool {
    match parsed {
        Parsed::Request(_)
        | Parsed::Stream { .. }
        | Parsed::UntaggedCommand(_)
        | Parsed::Keys(_)
        | Parsed::Swallow { then: Then::Request(_), .. } => true,
        Parsed::LocalReply(_)
        | Parsed::NeedsVersion
        | Parsed::Swallow { then: Then::LocalReply(_), .. }
        | Parsed::Close(_)
        | Parsed::Login => false,
    }
}

/// Why a request may not be forwarded, if so.
pub(crate) fn deny_request(permissions: &Permissions, request: &Request<'_>) -> Option<Denial> {
    let needed = match &request.command {
        // It has no key and reveals only the instance's version.
        Command::Version => return None,
        Command::Get { exptime } => get_scopes(*exptime),
        // The reply is the new number (D-14).
        Command::Arithmetic { .. } if !protocol::hides_success(request.format) => {
            Scopes::READ | Scopes::WRITE
        }
        // The reply has the item's flags (D-14).
        Command::Touch { .. } if matches!(request.format, ReplyFormat::Binary(_)) => {
            Scopes::READ | Scopes::WRITE
        }
        Command::Store(_)
        | Command::Delete { .. }
        | Command::Arithmetic { .. }
        | Command::Touch { .. }
        | Command::Invalidate => Scopes::WRITE,
        Command::Meta(meta) => meta_scopes(meta),
    };
    missing_scope(permissions, needed).or_else(|| outside_prefix(permissions, request.key))
}

/// A `gat` also changes the item.
fn get_scopes(exptime: Option<i32>) -> Scopes {
    if exptime.is_some() { Scopes::READ | Scopes::WRITE } else { Scopes::READ }
}

fn meta_scopes(meta: &Meta<'_>) -> Scopes {
    match meta.verb {
        Verb::Get if meta.mutates() => Scopes::READ | Scopes::WRITE,
        Verb::Get => Scopes::READ,
        // The reply shows what the item holds (D-14).
        Verb::Set | Verb::Delete | Verb::Arithmetic if meta.reveals() => Scopes::READ | Scopes::WRITE,
        Verb::Set | Verb::Delete | Verb::Arithmetic => Scopes::WRITE,
    }
}

/// Statistics and flushes concern all keys, so a token with a key prefix may not use them.
fn deny_untagged(permissions: &Permissions, command: &UntaggedCommand<'_>) -> Option<Denial> {
    let restricted = || permissions.prefix.is_some().then_some(Denial::OutsidePrefix);
    match command.kind {
        UntaggedKind::Stats { .. } => missing_scope(permissions, Scopes::STATS).or_else(restricted),
        UntaggedKind::FlushAll { .. } => missing_scope(permissions, Scopes::FLUSH).or_else(restricted),
        UntaggedKind::Inspect { key, base64 } => {
            let form = if base64 { KeyForm::Base64 } else { KeyForm::Plain };
            let key = Key { bytes: key, form };
            missing_scope(permissions, Scopes::READ).or_else(|| outside_prefix(permissions, key))
        }
    }
}

/// The denial for the first needed scope that the token lacks.
fn missing_scope(permissions: &Permissions, needed: Scopes) -> Option<Denial> {
    needed.each().find(|scope| !permissions.scopes.contains((*scope).into())).map(Denial::NeedsScope)
}

/// Denies a key without the token's prefix; compares the key as memcached stores it. Only canonical base64 is
/// accepted: memcached skips unknown bytes, and a decoder that differed would name another key.
fn outside_prefix(permissions: &Permissions, key: Key<'_>) -> Option<Denial> {
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
