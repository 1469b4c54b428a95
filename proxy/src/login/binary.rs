//! Binary SASL: LIST, AUTH and STEP, and what memcached `-S` answers to everything else before login.

use std::borrow::Cow;

use sasl::server::{Mechanism, Response};

use super::sasl::StrictPlain;
use super::{Credential, MECHANISMS, Replies, Step};
use crate::dialect::BINARY_MAGIC;
use crate::dialect::binary::{BODY_MAX, HEADER, Header, Status, opcode};

/// The longest body of a login.
const BODY_LIMIT: u32 = 16_384;
/// memcached's limit for a mechanism's name.
const MECHANISM_MAX: usize = 32;
/// What VERSION answers before anybody's own instance is known: the version whose bytes we speak.
const VERSION: &[u8] = b"1.6.45";

/// Remembers whether an AUTH has begun that a STEP may go on with.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    begun: bool,
}

impl Reader {
    pub(super) fn step(&mut self, input: &[u8]) -> Step {
        if input.first().is_some_and(|magic| *magic != BINARY_MAGIC) {
            return Step::Close { reply: Cow::Borrowed(b"") };
        }
        let Some(header) = Header::read(input) else { return Step::More };
        if header.body_len() < header.key + header.extras {
            return close(&header, Status::UNKNOWN);
        }
        if header.body > BODY_MAX {
            return close(&header, Status::INVALID);
        }
        match header.opcode {
            opcode::VERSION if header.body == 0 => answer(&header, Status::OK, VERSION),
            opcode::SASL_LIST if header.body == 0 => answer(&header, Status::OK, MECHANISMS),
            opcode::VERSION | opcode::SASL_LIST => close(&header, Status::INVALID),
            opcode::SASL_AUTH | opcode::SASL_STEP => self.sasl(&header, input),
            _ => close(&header, Status::AUTH_FAILURE),
        }
    }

    fn sasl(&mut self, header: &Header, input: &[u8]) -> Step {
        if header.key == 0 || header.extras != 0 {
            return close(header, Status::INVALID);
        }
        if header.body > BODY_LIMIT {
            return close(header, Status::OUT_OF_MEMORY);
        }
        let consumed = HEADER + header.body_len();
        let Some(body) = input.get(HEADER..consumed) else { return Step::More };
        let (mechanism, message) = body.split_at_checked(header.key).unwrap_or((body, b""));
        if mechanism.len() > MECHANISM_MAX {
            return Step::Answer { consumed, reply: header.status(Status::INVALID) };
        }
        let begun = std::mem::take(&mut self.begun);
        let known = mechanism.eq_ignore_ascii_case(b"PLAIN") && (header.opcode == opcode::SASL_AUTH || begun);
        if known && message.is_empty() && header.opcode == opcode::SASL_AUTH {
            self.begun = true;
            return Step::Answer { consumed, reply: header.status(Status::CONTINUE) };
        }
        let credential = if known { plain(message) } else { None };
        Step::Attempt { consumed, credential, replies: replies(header) }
    }
}

/// Runs the mechanism over one message. What it says is checked later, against a grant.
fn plain(message: &[u8]) -> Option<Credential> {
    let mut mechanism = StrictPlain::default();
    match mechanism.respond(message) {
        Ok(Response::Success(..)) => mechanism.into_credential(),
        Ok(Response::Proceed(_)) | Err(_) => None,
    }
}

fn replies(header: &Header) -> Replies {
    Replies {
        welcome: header.reply(Status::OK, b"Authenticated"),
        refused: header.status(Status::AUTH_FAILURE),
        unavailable: header.status(Status::TEMPORARY),
        full: header.status(Status::TEMPORARY),
    }
}

fn answer(header: &Header, status: Status, body: &[u8]) -> Step {
    Step::Answer { consumed: HEADER, reply: header.reply(status, body) }
}

fn close(header: &Header, status: Status) -> Step {
    Step::Close { reply: header.status(status) }
}

#[cfg(test)]
mod tests {
    use store::Token;

    use super::*;

    fn request(opcode: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![0x80, opcode];
        out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
        out.extend([0, 0, 0, 0]);
        out.extend(u32::try_from(key.len() + value.len()).unwrap().to_be_bytes());
        out.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        out
    }

    fn say(reader: &mut Reader, input: &[u8]) -> String {
        let status =
            |reply: &[u8]| reply.get(6..8).map_or("nothing".into(), |s| format!("{:02x}{:02x}", s[0], s[1]));
        match reader.step(input) {
            Step::More => "more".into(),
            Step::Answer { reply, .. } => format!("say {}", status(&reply)),
            Step::Close { reply } => format!("close {}", status(&reply)),
            Step::Attempt { credential, .. } => {
                if credential.is_some() { "attempt" } else { "refuse" }.into()
            }
        }
    }

    #[test]
    fn requests_before_login() {
        let long = [b'M'; 33];
        for (opcode, key, value, expected) in [
            (0x0b, &b""[..], &b""[..], "say 0000"),
            (0x20, b"", b"", "say 0000"),
            (0x20, b"x", b"", "close 0004"),
            (0x00, b"a", b"", "close 0020"),
            (0x0a, b"", b"", "close 0020"),
            (0x07, b"", b"", "close 0020"),
            (0x50, b"", b"", "close 0020"),
            (0x21, b"", b"x", "close 0004"),
            (0x21, &long, b"x", "say 0004"),
            (0x21, b"CRAM-MD5", b"", "refuse"),
            (0x21, b"PLAIN", b"", "say 0021"),
            (0x21, b"PLAIN", b"\0user\0pass", "refuse"),
            (0x22, b"PLAIN", b"\0user\0pass", "refuse"),
        ] {
            assert_eq!(say(&mut Reader::default(), &request(opcode, key, value)), expected, "{opcode:#x}");
        }
        let get = request(0x00, b"a", b"");
        let Step::Close { reply } = Reader::default().step(&get) else { panic!("not closed") };
        let mut expected = vec![0x81, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x0d, 0xde, 0xad, 0xbe, 0xef];
        expected.extend([0; 8]);
        expected.extend(b"Auth failure.");
        assert_eq!(reply, expected);
    }

    #[test]
    fn plain_logs_in_at_once_or_in_two_steps() {
        let token = Token::generate();
        let (user, password) = (token.id().username(), token.secret().reveal().to_owned());
        for message in [format!("\0{user}\0{password}"), format!("{user}\0{user}\0{password}")] {
            assert_eq!(say(&mut Reader::default(), &request(0x21, b"plain", message.as_bytes())), "attempt");
        }
        let message = format!("\0{user}\0{password}");
        let mut reader = Reader::default();
        assert_eq!(say(&mut reader, &request(0x21, b"PLAIN", b"")), "say 0021");
        assert_eq!(say(&mut reader, &request(0x22, b"PLAIN", message.as_bytes())), "attempt");
        assert_eq!(say(&mut reader, &request(0x22, b"PLAIN", message.as_bytes())), "refuse");
        for message in [
            format!("other\0{user}\0{password}"),
            format!("\0{user}\0{password}\0"),
            format!("\0\0{password}"),
            format!("{user}\0{password}"),
        ] {
            assert_eq!(say(&mut Reader::default(), &request(0x21, b"PLAIN", message.as_bytes())), "refuse");
        }
    }
}
