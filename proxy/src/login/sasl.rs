//! Binary SASL: LIST, AUTH and STEP, and the replies of memcached `-S` to everything else before login.

use std::borrow::Cow;

use sasl::server::{Mechanism, Response};
use store::{ScramKeys, TokenId};

use super::plain::StrictPlain;
use super::scram::{self, Scram};
use super::{Credential, Proof, Replies, Step, mechanisms};
use crate::protocol::BINARY_MAGIC;
use crate::protocol::binary::header::{BODY_MAX, HEADER, Header, Status, opcode};

/// Maximum body of a login (D-10).
const LOGIN_BODY_MAX: u32 = 16_384;
/// Maximum length of a mechanism name, as in memcached.
const MECHANISM_MAX: usize = 32;
/// The reply to VERSION before login, when no instance is known: the version whose bytes we send.
const VERSION: &[u8] = b"1.6.45";

/// Parses SASL messages; remembers the exchange that a STEP continues.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Whether SCRAM is offered.
    scram: bool,
    exchange: Exchange,
    /// The keys of the name at the front of the input, and the server's half of the nonce.
    provided: Option<(ScramKeys, String)>,
}

#[derive(Debug, Default)]
enum Exchange {
    #[default]
    None,
    /// The mechanism was chosen; its first message follows.
    Chosen(Name),
    Scram(Box<Scram>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Plain,
    Scram,
}

impl Reader {
    pub(super) fn new(scram: bool) -> Self {
        Self { scram, exchange: Exchange::None, provided: None }
    }

    pub(super) fn provide_keys(&mut self, keys: ScramKeys, nonce: String) {
        self.provided = Some((keys, nonce));
    }

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
            opcode::VERSION if header.body == 0 => reply(&header, Status::OK, VERSION),
            opcode::SASL_LIST if header.body == 0 => reply(&header, Status::OK, mechanisms(self.scram)),
            opcode::VERSION | opcode::SASL_LIST => close(&header, Status::INVALID),
            opcode::SASL_AUTH | opcode::SASL_STEP => self.sasl(&header, input),
            _ => close(&header, Status::AUTH_FAILURE),
        }
    }

    fn sasl(&mut self, header: &Header, input: &[u8]) -> Step {
        if header.key == 0 || header.extras != 0 {
            return close(header, Status::INVALID);
        }
        if header.body > LOGIN_BODY_MAX {
            return close(header, Status::OUT_OF_MEMORY);
        }
        let consumed = HEADER + header.body_len();
        let Some(body) = input.get(HEADER..consumed) else { return Step::More };
        let (mechanism, message) = body.split_at_checked(header.key).unwrap_or((body, b""));
        if mechanism.len() > MECHANISM_MAX {
            return Step::Reply { consumed, reply: header.status(Status::INVALID) };
        }
        let Some(name) = self.offered(mechanism) else {
            self.exchange = Exchange::None;
            return denied(header, consumed);
        };
        let is_step = header.opcode == opcode::SASL_STEP;
        match (std::mem::take(&mut self.exchange), is_step) {
            (Exchange::Scram(exchange), true) if name == Name::Scram => {
                return self.continue_scram(header, consumed, exchange, message);
            }
            (Exchange::Chosen(chosen), true) if chosen == name => {}
            (_, true) => return denied(header, consumed),
            (_, false) if message.is_empty() => {
                self.exchange = Exchange::Chosen(name);
                return Step::Reply { consumed, reply: header.status(Status::CONTINUE) };
            }
            (_, false) => {}
        }
        if name == Name::Plain {
            return Step::Attempt { consumed, credential: plain(message), replies: replies(header) };
        }
        let Some(user) = scram::name_of(message) else { return denied(header, consumed) };
        let Some((keys, nonce)) = self.provided.take() else {
            // The caller steps over the same bytes again.
            self.exchange = if is_step { Exchange::Chosen(name) } else { Exchange::None };
            return Step::LookUp { name: user, unavailable: header.status(Status::TEMPORARY) };
        };
        self.continue_scram(header, consumed, Box::new(Scram::new(user, keys, nonce)), message)
    }

    /// The mechanism, if it is offered; names ignore case.
    fn offered(&self, name: &[u8]) -> Option<Name> {
        if name.eq_ignore_ascii_case(b"PLAIN") {
            return Some(Name::Plain);
        }
        (self.scram && name.eq_ignore_ascii_case(scram::NAME.as_bytes())).then_some(Name::Scram)
    }

    /// Handles one SCRAM message. An empty message after the server's proof ends the exchange, as in memcached and Cyrus.
    fn continue_scram(
        &mut self,
        header: &Header,
        consumed: usize,
        mut exchange: Box<Scram>,
        message: &[u8],
    ) -> Step {
        let id = TokenId::parse_username(exchange.user().as_bytes());
        let proof = match exchange.respond(message) {
            Ok(Response::Proceed(challenge)) => {
                self.exchange = Exchange::Scram(exchange);
                return Step::Reply { consumed, reply: header.reply(Status::CONTINUE, &challenge) };
            }
            Ok(Response::Success(..)) => Proof::Scram(exchange.into_keys()),
            Err(_) => Proof::Failed,
        };
        let credential = id.map(|id| Credential { id, proof });
        Step::Attempt { consumed, credential, replies: replies(header) }
    }
}

/// Parses a PLAIN message; the credential is checked later, against a grant.
fn plain(message: &[u8]) -> Option<Credential> {
    let mut mechanism = StrictPlain::default();
    match mechanism.respond(message) {
        Ok(Response::Success(..)) => mechanism.into_credential(),
        Ok(Response::Proceed(_)) | Err(_) => None,
    }
}

/// An attempt that can't be valid.
fn denied(header: &Header, consumed: usize) -> Step {
    Step::Attempt { consumed, credential: None, replies: replies(header) }
}

fn replies(header: &Header) -> Replies {
    Replies {
        success: header.reply(Status::OK, b"Authenticated"),
        denied: header.status(Status::AUTH_FAILURE),
        unavailable: header.status(Status::TEMPORARY),
        connection_limit: header.status(Status::TEMPORARY),
    }
}

fn reply(header: &Header, status: Status, body: &[u8]) -> Step {
    Step::Reply { consumed: HEADER, reply: header.reply(status, body) }
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

    fn describe(reader: &mut Reader, input: &[u8]) -> String {
        let status =
            |reply: &[u8]| reply.get(6..8).map_or("nothing".into(), |s| format!("{:02x}{:02x}", s[0], s[1]));
        match reader.step(input) {
            Step::More => "more".into(),
            Step::Reply { reply, .. } => format!("reply {}", status(&reply)),
            Step::Close { reply } => format!("close {}", status(&reply)),
            Step::LookUp { name, .. } => format!("look up {name}"),
            Step::Attempt { credential, .. } => if credential.is_some() { "attempt" } else { "deny" }.into(),
        }
    }

    // B-5, S-1, S-2, S-4, S-6.
    #[test]
    fn requests_before_login() {
        let long = [b'M'; 33];
        for (opcode, key, value, expected) in [
            (0x0b, &b""[..], &b""[..], "reply 0000"),
            (0x20, b"", b"", "reply 0000"),
            (0x20, b"x", b"", "close 0004"),
            (0x00, b"a", b"", "close 0020"),
            (0x0a, b"", b"", "close 0020"),
            (0x07, b"", b"", "close 0020"),
            (0x50, b"", b"", "close 0020"),
            (0x21, b"", b"x", "close 0004"),
            (0x21, &long, b"x", "reply 0004"),
            (0x21, b"CRAM-MD5", b"", "deny"),
            (0x21, b"PLAIN", b"", "reply 0021"),
            (0x21, b"PLAIN", b"\0user\0pass", "deny"),
            (0x22, b"PLAIN", b"\0user\0pass", "deny"),
        ] {
            assert_eq!(
                describe(&mut Reader::new(false), &request(opcode, key, value)),
                expected,
                "{opcode:#x}"
            );
        }
        let get = request(0x00, b"a", b"");
        let Step::Close { reply } = Reader::new(false).step(&get) else { panic!("not closed") };
        let mut expected = vec![0x81, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x0d, 0xde, 0xad, 0xbe, 0xef];
        expected.extend([0; 8]);
        expected.extend(b"Auth failure.");
        assert_eq!(reply, expected);
    }

    // S-1, S-3.
    #[test]
    fn plain_takes_one_step_or_two() {
        let token = Token::generate();
        let (user, password) = (token.id().username(), token.secret().reveal().to_owned());
        for message in [format!("\0{user}\0{password}"), format!("{user}\0{user}\0{password}")] {
            assert_eq!(
                describe(&mut Reader::new(false), &request(0x21, b"plain", message.as_bytes())),
                "attempt"
            );
        }
        let message = format!("\0{user}\0{password}");
        let mut reader = Reader::new(false);
        assert_eq!(describe(&mut reader, &request(0x21, b"PLAIN", b"")), "reply 0021");
        assert_eq!(describe(&mut reader, &request(0x22, b"PLAIN", message.as_bytes())), "attempt");
        assert_eq!(describe(&mut reader, &request(0x22, b"PLAIN", message.as_bytes())), "deny");
        for message in [
            format!("other\0{user}\0{password}"),
            format!("\0{user}\0{password}\0"),
            format!("\0\0{password}"),
            format!("{user}\0{password}"),
        ] {
            assert_eq!(
                describe(&mut Reader::new(false), &request(0x21, b"PLAIN", message.as_bytes())),
                "deny"
            );
        }
    }

    // S-5.
    #[test]
    fn scram_works_only_when_offered() {
        let token = Token::generate();
        let user = token.id().username();
        let first = format!("n,a={user},n={user},r=abc");
        let auth = |message: &str| request(0x21, b"scram-sha-256", message.as_bytes());
        let step = |message: &str| request(0x22, b"SCRAM-SHA-256", message.as_bytes());
        let keys = || ScramKeys { salt: [1; 16], iterations: 4096, stored_key: [2; 32], server_key: [3; 32] };
        assert_eq!(describe(&mut Reader::new(false), &auth(&first)), "deny");
        for (offered, list) in [(false, &b"PLAIN"[..]), (true, b"SCRAM-SHA-256 PLAIN")] {
            let Step::Reply { reply, .. } = Reader::new(offered).step(&request(0x20, b"", b"")) else {
                panic!()
            };
            assert_eq!(&reply[24..], list);
        }
        // In AUTH, or in a STEP after an empty AUTH.
        let mut reader = Reader::new(true);
        for after_empty_auth in [false, true] {
            if after_empty_auth {
                assert_eq!(describe(&mut reader, &auth("")), "reply 0021");
            }
            let asked = if after_empty_auth { step(&first) } else { auth(&first) };
            assert_eq!(describe(&mut reader, &asked), format!("look up {user}"));
            reader.provide_keys(keys(), "nonce".to_owned());
            let Step::Reply { consumed, reply } = reader.step(&asked) else { panic!() };
            assert_eq!(consumed, asked.len());
            assert_eq!(&reply[24..], b"r=abcnonce,s=AQEBAQEBAQEBAQEBAQEBAQ==,i=4096");
            assert_eq!(
                describe(&mut reader, &step("c=biws,r=abcnonce,p=x")),
                "attempt",
                "a wrong proof is an attempt"
            );
            assert_eq!(describe(&mut reader, &step("")), "deny");
        }
        for bad in [step(&first), auth("n,,n=,r=abc"), step("")] {
            assert_eq!(describe(&mut Reader::new(true), &bad), "deny");
        }
        // A STEP must name the mechanism of its AUTH.
        for (begin, go_on) in
            [(&b"PLAIN"[..], step(&first)), (b"SCRAM-SHA-256", request(0x22, b"PLAIN", b"x"))]
        {
            let mut reader = Reader::new(true);
            assert_eq!(describe(&mut reader, &request(0x21, begin, b"")), "reply 0021");
            assert_eq!(describe(&mut reader, &go_on), "deny");
        }
    }
}
