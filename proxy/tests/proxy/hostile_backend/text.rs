//! The text protocol as clients use it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use store::Token;

use super::client::{Found, Outcome, Request};
use testkit::text;

pub(crate) fn log_in(stream: &mut BufReader<TcpStream>, token: &Token) {
    stream.get_mut().write_all(text::login(token).as_bytes()).unwrap();
    assert_eq!(line(stream), "STORED");
}

pub(crate) fn write(request: &Request, flags: u32, out: &mut Vec<u8>) {
    let done = match request {
        Request::Get { keys, touch } => {
            out.extend_from_slice(if *touch { b"gat 0" } else { b"gets" });
            for (_, name) in keys {
                out.push(b' ');
                out.extend_from_slice(name.as_bytes());
            }
            out.write_all(b"\r\n")
        }
        Request::Store { name, value, .. } => {
            write!(out, "set {name} {flags} 0 {}\r\n", value.len()).unwrap();
            out.extend_from_slice(value);
            out.write_all(b"\r\n")
        }
        Request::Delete { name, .. } => write!(out, "delete {name}\r\n"),
        Request::Touch { name, .. } => write!(out, "touch {name} 0\r\n"),
        Request::Begin { name } => write!(out, "add {name} 0 0 1\r\n0\r\n"),
        Request::Count { name } => write!(out, "incr {name} 1\r\n"),
        Request::Version => out.write_all(b"version\r\n"),
    };
    done.unwrap();
}

pub(crate) fn read(stream: &mut BufReader<TcpStream>, request: &Request) -> Outcome {
    let mut found = Vec::new();
    loop {
        let line = line(stream);
        if let Some(rest) = line.strip_prefix("VALUE ") {
            found.push(value(stream, rest));
            continue;
        }
        let get = matches!(request, Request::Get { .. });
        assert!(get || found.is_empty(), "a value for {request:?}");
        return match line.as_str() {
            "END" if get => Outcome::Values { found, whole: true },
            "SERVER_ERROR backend unavailable" | "SERVER_ERROR backend timed out" if get => {
                Outcome::Values { found, whole: false }
            }
            "SERVER_ERROR backend unavailable" | "SERVER_ERROR backend timed out" => Outcome::Unavailable,
            "STORED" | "DELETED" | "TOUCHED" => Outcome::Done,
            "NOT_FOUND" => Outcome::Missing,
            "NOT_STORED" => Outcome::NotStored,
            "SERVER_ERROR out of memory storing object"
            | "SERVER_ERROR Out of memory during read"
            | "CLIENT_ERROR cannot increment or decrement non-numeric value" => Outcome::Rejected,
            line if line.starts_with("VERSION ") => Outcome::Version,
            line => Outcome::Number(line.parse().unwrap_or_else(|_| panic!("{line:?} to {request:?}"))),
        };
    }
}

/// Reads a value; `head` is `<key> <flags> <bytes> [<cas>]`.
fn value(stream: &mut BufReader<TcpStream>, head: &str) -> Found {
    let mut words = head.split(' ');
    let name = words.next().unwrap().as_bytes().to_vec();
    let flags = words.next().unwrap().parse().unwrap();
    let len: usize = words.next().unwrap().parse().unwrap();
    let mut value = vec![0; len + 2];
    stream.read_exact(&mut value).unwrap();
    assert!(value.ends_with(b"\r\n"), "a value of another length");
    value.truncate(len);
    Found { name, flags, value }
}

pub(crate) fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.ends_with("\r\n"), "the connection has ended, or a line isn't whole: {line:?}");
    line.truncate(line.len() - 2);
    line
}
