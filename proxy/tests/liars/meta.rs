//! The meta protocol, as a client speaks it, with opaques and base64 keys of its own.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::client::{Ask, Found, Told};
use crate::text::line;

/// Whether a key's name is base64: a client's own keys are.
fn flag(name: &str) -> &'static str {
    if name.ends_with('=') { " b" } else { "" }
}

pub(crate) fn write(nth: usize, ask: &Ask, client_flags: u32, out: &mut Vec<u8>) {
    let done = match ask {
        Ask::Get { keys, touch } => {
            let (name, touch) = (&keys[0].1, if *touch { " T0" } else { "" });
            write!(out, "mg {name}{} v{touch} k O{nth} f\r\n", flag(name))
        }
        Ask::Store { name, value, .. } => {
            write!(out, "ms {name} {}{} F{client_flags} O{nth}\r\n", value.len(), flag(name)).unwrap();
            out.extend_from_slice(value);
            out.write_all(b"\r\n")
        }
        Ask::Delete { name, .. } => write!(out, "md {name}{} O{nth}\r\n", flag(name)),
        Ask::Touch { name, .. } => write!(out, "mg {name}{} T0 O{nth}\r\n", flag(name)),
        Ask::Begin { name } => write!(out, "ms {name} 1 ME O{nth}\r\n0\r\n"),
        Ask::Count { name } => write!(out, "ma {name} O{nth} v\r\n"),
        Ask::Version => out.write_all(b"version\r\n"),
    };
    done.unwrap();
}

pub(crate) fn read(stream: &mut BufReader<TcpStream>, nth: usize, ask: &Ask) -> Told {
    let line = line(stream);
    match line.as_str() {
        "SERVER_ERROR backend unavailable" | "SERVER_ERROR backend timed out" => {
            let get = matches!(ask, Ask::Get { .. });
            return if get { Told::Values { found: Vec::new(), whole: false } } else { Told::Fault };
        }
        "SERVER_ERROR out of memory storing object"
        | "CLIENT_ERROR cannot increment or decrement non-numeric value" => return Told::Refused,
        version if version.starts_with("VERSION ") => return Told::Version,
        _ => {}
    }
    let mut words = line.split(' ');
    let status = words.next().unwrap();
    let len = (status == "VA").then(|| words.next().unwrap().parse().unwrap());
    let flags: Vec<&str> = words.collect();
    assert!(flags.contains(&format!("O{nth}").as_str()), "another's reply to {ask:?}: {line:?}");
    match (status, ask, len) {
        ("VA", Ask::Get { .. }, Some(len)) => {
            let flag = |name| flags.iter().find_map(|flag| flag.strip_prefix(name)).expect("a flag less");
            let (name, client_flags) = (flag('k').as_bytes().to_vec(), flag('f').parse().unwrap());
            let found = vec![Found { name, flags: client_flags, value: data(stream, len) }];
            Told::Values { found, whole: true }
        }
        ("EN", Ask::Get { .. }, _) => Told::Values { found: Vec::new(), whole: true },
        ("VA", Ask::Count { .. }, Some(len)) => {
            Told::Number(String::from_utf8(data(stream, len)).unwrap().parse().unwrap())
        }
        ("HD", _, _) => Told::Done,
        ("EN" | "NF", _, _) => Told::Missing,
        ("NS", _, _) => Told::NotStored,
        _ => panic!("{line:?} to {ask:?}"),
    }
}

fn data(stream: &mut BufReader<TcpStream>, len: usize) -> Vec<u8> {
    let mut data = vec![0; len + 2];
    stream.read_exact(&mut data).unwrap();
    assert!(data.ends_with(b"\r\n"), "a value of another length");
    data.truncate(len);
    data
}
