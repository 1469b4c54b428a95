//! The meta protocol as clients use it, with opaques and base64 keys.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use super::client::{Found, Outcome, Request};
use super::text::line;

/// The flag for a base64 key: a client's own keys are encoded.
fn flag(name: &str) -> &'static str {
    if name.ends_with('=') { " b" } else { "" }
}

pub(crate) fn write(nth: usize, request: &Request, client_flags: u32, out: &mut Vec<u8>) {
    let done = match request {
        Request::Get { keys, touch } => {
            let (name, touch) = (&keys[0].1, if *touch { " T0" } else { "" });
            write!(out, "mg {name}{} v{touch} k O{nth} f\r\n", flag(name))
        }
        Request::Store { name, value, .. } => {
            write!(out, "ms {name} {}{} F{client_flags} O{nth}\r\n", value.len(), flag(name)).unwrap();
            out.extend_from_slice(value);
            out.write_all(b"\r\n")
        }
        Request::Delete { name, .. } => write!(out, "md {name}{} O{nth}\r\n", flag(name)),
        Request::Touch { name, .. } => write!(out, "mg {name}{} T0 O{nth}\r\n", flag(name)),
        Request::Begin { name } => write!(out, "ms {name} 1 ME O{nth}\r\n0\r\n"),
        Request::Count { name } => write!(out, "ma {name} O{nth} v\r\n"),
        Request::Version => out.write_all(b"version\r\n"),
    };
    done.unwrap();
}

pub(crate) fn read(stream: &mut BufReader<TcpStream>, nth: usize, request: &Request) -> Outcome {
    let line = line(stream);
    match line.as_str() {
        "SERVER_ERROR backend unavailable" | "SERVER_ERROR backend timed out" => {
            let get = matches!(request, Request::Get { .. });
            return if get {
                Outcome::Values { found: Vec::new(), whole: false }
            } else {
                Outcome::Unavailable
            };
        }
        "SERVER_ERROR out of memory storing object"
        | "SERVER_ERROR Out of memory during read"
        | "CLIENT_ERROR cannot increment or decrement non-numeric value" => return Outcome::Rejected,
        version if version.starts_with("VERSION ") => return Outcome::Version,
        _ => {}
    }
    let mut words = line.split(' ');
    let status = words.next().unwrap();
    let len = (status == "VA").then(|| words.next().unwrap().parse().unwrap());
    let flags: Vec<&str> = words.collect();
    assert!(flags.contains(&format!("O{nth}").as_str()), "another's reply to {request:?}: {line:?}");
    match (status, request, len) {
        ("VA", Request::Get { .. }, Some(len)) => {
            let flag = |name| flags.iter().find_map(|flag| flag.strip_prefix(name)).expect("a flag less");
            let (name, client_flags) = (flag('k').as_bytes().to_vec(), flag('f').parse().unwrap());
            let found = vec![Found { name, flags: client_flags, value: data(stream, len) }];
            Outcome::Values { found, whole: true }
        }
        ("EN", Request::Get { .. }, _) => Outcome::Values { found: Vec::new(), whole: true },
        ("VA", Request::Count { .. }, Some(len)) => {
            Outcome::Number(String::from_utf8(data(stream, len)).unwrap().parse().unwrap())
        }
        ("HD", _, _) => Outcome::Done,
        ("EN" | "NF", _, _) => Outcome::Missing,
        ("NS", _, _) => Outcome::NotStored,
        _ => panic!("{line:?} to {request:?}"),
    }
}

fn data(stream: &mut BufReader<TcpStream>, len: usize) -> Vec<u8> {
    let mut data = vec![0; len + 2];
    stream.read_exact(&mut data).unwrap();
    assert!(data.ends_with(b"\r\n"), "a value of another length");
    data.truncate(len);
    data
}
