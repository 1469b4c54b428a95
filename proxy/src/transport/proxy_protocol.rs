//! The PROXY protocol, versions 1 and 2, by which a load balancer passes on the client's address. Parsed strictly, once,
//! before anything else, and only from configured load balancers. Pure.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum length of a version 1 line, its end included.
const LINE_MAX: usize = 107;
/// Maximum length of what follows a version 2 header: addresses, and extensions that we ignore.
const BODY_MAX: usize = 1024;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of a version 2 header: signature, version and command, family and protocol, length.
const HEADER_LEN: usize = 16;

/// A PROXY header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its length in bytes.
    pub(crate) consumed: usize,
    /// The client's address; `None` for the balancer's own connections, or if it doesn't know.
    pub(crate) source: Option<IpAddr>,
}

/// Not a PROXY header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Header {
    /// Parses the header at the front of `input`; `None` if it is incomplete.
    ///
    /// # Errors
    ///
    /// If it is not a valid header.
    pub(crate) fn read(input: &[u8]) -> Result<Option<Self>, Malformed> {
        if input.starts_with(SIGNATURE) {
            return Self::read_binary(input);
        }
        if SIGNATURE.starts_with(input) {
            return Ok(None);
        }
        Self::read_line(input)
    }

    /// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`
    fn read_line(input: &[u8]) -> Result<Option<Self>, Malformed> {
        const WORD: &[u8] = b"PROXY ";
        let shown = input.get(..LINE_MAX).unwrap_or(input);
        let Some(end) = memchr::memchr(b'\n', shown) else {
            let may_be_one = WORD.starts_with(input) || input.starts_with(WORD);
            return if may_be_one && input.len() < LINE_MAX { Ok(None) } else { Err(Malformed) };
        };
        let line = shown.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed)?;
        let line = line.strip_prefix(WORD).ok_or(Malformed)?;
        let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
        let source = if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
            None
        } else {
            Some(addresses(line).ok_or(Malformed)?)
        };
        Ok(Some(Self { consumed: end + 1, source }))
    }

    fn read_binary(input: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(&[version_command, family, high, low]) = input.get(SIGNATURE.len()..HEADER_LEN) else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > BODY_MAX || !matches!(version_command, 0x20 | 0x21) {
            return Err(Malformed);
        }
        let consumed = HEADER_LEN + len;
        let Some(body) = input.get(HEADER_LEN..consumed) else { return Ok(None) };
        let source = match (version_command, family) {
            // A health check by the balancer; the rest must be ignored.
            (0x20, _) => None,
            (_, 0x00) => None,
            (_, 0x11) => {
                let (source, _): (&[u8; 4], _) = split_front(body, 12)?;
                Some(IpAddr::V4(Ipv4Addr::from(*source)))
            }
            (_, 0x21) => {
                let (source, _): (&[u8; 16], _) = split_front(body, 36)?;
                Some(IpAddr::V6(Ipv6Addr::from(*source)))
            }
            // Datagrams, Unix sockets and undefined values.
            _ => return Err(Malformed),
        };
        Ok(Some(Self { consumed, source }))
    }
}

/// The first bytes of `body`, which must hold at least `min` bytes.
fn split_front<const N: usize>(body: &[u8], min: usize) -> Result<(&[u8; N], &[u8]), Malformed> {
    if body.len() < min {
        return Err(Malformed);
    }
    body.split_first_chunk().ok_or(Malformed)
}

/// `TCP4 <source> <destination> <port> <port>`, one space between them: the source.
fn addresses(line: &str) -> Option<IpAddr> {
    let mut words = line.split(' ');
    let source = match words.next()? {
        "TCP4" => IpAddr::V4(parse_pair::<Ipv4Addr>(&mut words)?),
        "TCP6" => IpAddr::V6(parse_pair::<Ipv6Addr>(&mut words)?),
        _ => return None,
    };
    let ports = is_port(words.next()?) && is_port(words.next()?);
    (ports && words.next().is_none()).then_some(source)
}

/// Parses two addresses of one family and returns the first.
fn parse_pair<'a, T: std::str::FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    let (source, destination) = (words.next()?.parse().ok()?, words.next()?.parse::<T>());
    destination.is_ok().then_some(source)
}

/// 0 to 65535, without a sign or a leading zero.
fn is_port(word: &str) -> bool {
    let plain = word == "0" || (word.starts_with(|c: char| c.is_ascii_digit()) && !word.starts_with('0'));
    plain && word.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> String {
        match Header::read(input) {
            Ok(None) => "more".to_owned(),
            Err(Malformed) => "malformed".to_owned(),
            Ok(Some(Header { consumed, source })) => {
                let source = source.map_or("itself".to_owned(), |source| source.to_string());
                format!("{source} {consumed}")
            }
        }
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, body].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                       ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), LINE_MAX);
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1 42"),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\nget a\r\n", "255.255.255.255 56"),
            ("PROXY TCP6 2001:db8::1 ::1 0 1\r\n", "2001:db8::1 32"),
            ("PROXY UNKNOWN\r\n", "itself 15"),
            ("PROXY UNKNOWN and whatever else\r\n", "itself 33"),
            (longest, "itself 107"),
            ("", "more"),
            ("P", "more"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r", "more"),
            (&longest[..106], "more"),
            ("proxy TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n", "malformed"),
            ("PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 01 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.01 192.0.2.2 1 443\r\n", "malformed"),
            ("PROXY TCP4 192.0.2.256 192.0.2.2 1 443\r\n", "malformed"),
            ("PROXY TCP4 2001:db8::1 ::1 1 443\r\n", "malformed"),
            ("PROXY TCP6 192.0.2.1 192.0.2.2 1 443\r\n", "malformed"),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n", "malformed"),
            ("PROXY UNKNOWNS\r\n", "malformed"),
            ("PROXY\r\n", "malformed"),
            ("PROXYTCP4", "malformed"),
            ("get a\r\n", "malformed"),
            ("set", "malformed"),
            ("\x16\x03\x01", "malformed"),
            ("\r\n\r\nget", "malformed"),
        ] {
            assert_eq!(read(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(read(format!("PROXY UNKNOWN {}", "x".repeat(93)).as_bytes()), "malformed");
        assert_eq!(read(b"PROXY UNKNOWN \xff\r\n"), "malformed");
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];
        let v6 = [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 20]].concat();
        let more = |body: &[u8], more: usize| [body, &vec![4; more]].concat();
        for (header, expected) in [
            (binary(0x21, 0x11, &v4), "192.0.2.1 28"),
            (binary(0x21, 0x21, &v6), "2001:db8::1 52"),
            (binary(0x21, 0x11, &more(&v4, 100)), "192.0.2.1 128"),
            (binary(0x21, 0x11, &more(&v4, BODY_MAX - 12)), "192.0.2.1 1040"),
            (binary(0x20, 0x00, b""), "itself 16"),
            (binary(0x20, 0x11, &v4), "itself 28"),
            (binary(0x20, 0xff, b"?"), "itself 17"),
            (binary(0x21, 0x00, b"xyz"), "itself 19"),
            (binary(0x21, 0x11, &v4[..11]), "malformed"),
            (binary(0x21, 0x21, &v6[..35]), "malformed"),
            (binary(0x21, 0x12, &v4), "malformed"),
            (binary(0x21, 0x31, &[0; 216]), "malformed"),
            (binary(0x21, 0x41, &v6), "malformed"),
            (binary(0x11, 0x11, &v4), "malformed"),
            (binary(0x22, 0x11, &v4), "malformed"),
            (binary(0x21, 0x11, &more(&v4, BODY_MAX - 11)), "malformed"),
        ] {
            assert_eq!(read(&header), expected, "{}", header.escape_ascii());
        }
        let header = binary(0x21, 0x11, &v4);
        for len in 0..header.len() {
            assert_eq!(read(&header[..len]), "more", "{len}");
        }
        assert_eq!(read(&[&header[..], b"get a\r\n"].concat()), "192.0.2.1 28");
    }
}
