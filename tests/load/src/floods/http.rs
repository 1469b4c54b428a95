//! A client of HTTP/1.1 that knows the web UI's sign-in form.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(super) const OK: u16 = 200;
pub(super) const SEE_OTHER: u16 = 303;
pub(super) const UNAUTHORIZED: u16 = 401;
/// Bytes of a response.
const RESPONSE_MAX: usize = 256 * 1024;

pub(super) struct Http {
    stream: TcpStream,
    input: Vec<u8>,
}

pub(super) struct Response {
    pub(super) status: u16,
    head: String,
    body: String,
}

/// What the sign-in form carries: the CSRF token and the cookie.
pub(super) struct Form {
    csrf_token: String,
    cookie: String,
}

impl Http {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    pub(super) async fn get(&mut self, path: &str) -> io::Result<Response> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }

    /// Asks for the sign-in form.
    pub(super) async fn sign_in_form(&mut self) -> io::Result<Form> {
        let page = self.get("/sign-in").await?;
        let form = page.form();
        form.ok_or_else(|| io::Error::other(format!("no form in an answer with status {}", page.status)))
    }

    /// Submits the sign-in form.
    pub(super) async fn sign_in(&mut self, form: &Form, email: &str, password: &str) -> io::Result<Response> {
        let fields: Vec<String> =
            [("csrf_token", &*form.csrf_token), ("email", email), ("password", password)]
                .map(|(name, value)| format!("{name}={}", encode(value)))
                .into();
        let body = fields.join("&");
        self.exchange(&format!(
            "POST /sign-in HTTP/1.1\r\nhost: localhost\r\ncookie: {}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            form.cookie,
            body.len()
        ))
        .await
    }

    async fn exchange(&mut self, request: &str) -> io::Result<Response> {
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some((response, end)) = parse(&self.input) {
                self.input.drain(..end);
                return Ok(response);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 || self.input.len() > RESPONSE_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Response {
    fn form(&self) -> Option<Form> {
        let (_, after) = self.body.split_once("name=\"csrf_token\" value=\"")?;
        let (csrf_token, _) = after.split_once('"')?;
        let cookie = header(&self.head, "set-cookie")?.split(';').next()?;
        Some(Form { csrf_token: csrf_token.into(), cookie: cookie.into() })
    }
}

/// A response with a `Content-Length` and the end of its bytes; `None` if more bytes are needed.
fn parse(input: &[u8]) -> Option<(Response, usize)> {
    let head_end = input.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..head_end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length: usize = header(&head, "content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = input.get(head_end..head_end + length)?;
    let body = String::from_utf8_lossy(body).into_owned();
    Some((Response { status, head, body }, head_end + length))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A value of a form, percent-encoded.
fn encode(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_found_in_a_page() {
        let page = b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\ncontent-length: 35\r\n\r\n\
                     <i name=\"csrf_token\" value=\"secret\">HTTP/1.1 ";
        let (response, end) = parse(page).unwrap();
        assert_eq!((response.status, &page[end..]), (OK, &b">HTTP/1.1 "[..]));
        let form = response.form().unwrap();
        assert_eq!((&*form.csrf_token, &*form.cookie), ("secret", "a=b"));
        assert!(parse(&page[..page.len() - 11]).is_none());
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("a&b"), "%61%26%62");
    }
}
