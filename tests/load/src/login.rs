//! Login requests and their expected replies. Pure.

use clap::ValueEnum;

use crate::reply_checker::ExpectedReply;

const SASL_AUTH: u8 = 0x21;
const SASL_AUTHENTICATED: &[u8] = b"Authenticated";

/// How the load generator logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoginForm {
    None,
    /// A set with `username password`: memcached's -Y, and memgate
    Text,
    /// A set with the whole token
    Token,
    /// SASL PLAIN, in the binary protocol
    Sasl,
}

/// One user's login: the request, and the expected reply.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    request: Vec<u8>,
    form: LoginForm,
}

impl Login {
    pub(crate) fn none() -> Self {
        Self { request: Vec::new(), form: LoginForm::None }
    }

    pub(crate) fn new(form: LoginForm, username: &str, password: &str) -> Self {
        let request = match form {
            LoginForm::None => Vec::new(),
            LoginForm::Text => text(&format!("{username} {password}")),
            LoginForm::Token => text(&format!("{username}_{password}")),
            LoginForm::Sasl => sasl_plain(username, password),
        };
        Self { request, form }
    }

    pub(crate) fn request(&self) -> &[u8] {
        &self.request
    }

    /// The expected reply; `None` if no login is sent.
    pub(crate) fn expect(&self) -> Option<ExpectedReply<'static>> {
        match self.form {
            LoginForm::None => None,
            LoginForm::Text | LoginForm::Token => Some(ExpectedReply::line(b"STORED\r\n")),
            LoginForm::Sasl => Some(ExpectedReply {
                first: b"\x81\x21\0\0\0\0\0\0\0\0\0\x0d",
                // opaque and cas
                unknown: 12,
                second: SASL_AUTHENTICATED,
                ..ExpectedReply::line(b"")
            }),
        }
    }
}

fn text(payload: &str) -> Vec<u8> {
    format!("set auth 0 0 {}\r\n{payload}\r\n", payload.len()).into_bytes()
}

fn sasl_plain(username: &str, password: &str) -> Vec<u8> {
    let mechanism = "PLAIN";
    let message = format!("{mechanism}\0{username}\0{password}");
    let mut request = vec![0x80, SASL_AUTH, 0, u8::try_from(mechanism.len()).unwrap_or(0), 0, 0, 0, 0];
    request.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    request.extend_from_slice(&[0; 12]);
    request.extend_from_slice(message.as_bytes());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_every_form() {
        let request = |form| Login::new(form, "mg_a", "pw").request().to_vec();
        assert_eq!(request(LoginForm::Text), b"set auth 0 0 7\r\nmg_a pw\r\n");
        assert_eq!(request(LoginForm::Token), b"set auth 0 0 7\r\nmg_a_pw\r\n");
        let sasl = request(LoginForm::Sasl);
        assert_eq!(&sasl[..12], b"\x80\x21\0\x05\0\0\0\0\0\0\0\x0d");
        assert_eq!(&sasl[24..], b"PLAIN\0mg_a\0pw");
        assert!(request(LoginForm::None).is_empty());
    }
}
