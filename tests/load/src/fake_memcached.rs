//! A minimal memcached for the generator's tests, with a fault on request.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The fault that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The 50th get is answered with another key's value.
    OtherKey,
    /// The 50th get misses.
    Miss,
    /// The 50th get is answered twice.
    Duplicate,
    /// Closes the connection at the 50th get.
    Close,
}

#[derive(Clone)]
struct Fake {
    values: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    fault: Fault,
    /// `username password`, if a login is needed.
    login: Option<&'static str>,
}

/// Starts one. It ends with the process.
pub(crate) fn start(fault: Fault, login: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Fake { values: Arc::default(), fault, login };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let fake = fake.clone();
            std::thread::spawn(move || fake.serve(&stream));
        }
    });
    address
}

impl Fake {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut input = BufReader::new(stream);
        let (mut gets, mut authenticated) = (0, self.login.is_none());
        loop {
            let mut out = Vec::new();
            if input.fill_buf()?.first() == Some(&0x80) {
                self.binary(&mut input, &mut out, &mut authenticated)?;
            } else {
                gets += 1;
                self.line(&mut input, &mut out, (gets, &mut authenticated))?;
            }
            (&*stream).write_all(&out)?;
        }
    }

    fn line(
        &self,
        input: &mut BufReader<&TcpStream>,
        out: &mut Vec<u8>,
        (gets, authenticated): (u32, &mut bool),
    ) -> io::Result<()> {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let bad = || io::Error::from(ErrorKind::InvalidData);
        let (verb, keys) = words.split_first().ok_or_else(bad)?;
        let key = *keys.first().ok_or_else(bad)?;
        if matches!(*verb, "set" | "ms") {
            let len: usize = words.last().and_then(|len| len.parse().ok()).ok_or_else(bad)?;
            let mut value = vec![0; len + 2];
            input.read_exact(&mut value)?;
            value.truncate(len);
            if !*authenticated {
                *authenticated = self.login.is_some_and(|login| login.as_bytes() == value);
                let reply: &[u8] =
                    if *authenticated { b"STORED\r\n" } else { b"CLIENT_ERROR authentication failure\r\n" };
                out.extend_from_slice(reply);
                return Ok(());
            }
            self.values.lock().unwrap().insert(key.to_owned(), value);
            out.extend_from_slice(if *verb == "set" { b"STORED\r\n" } else { b"HD\r\n" });
            return Ok(());
        }
        let fault = if gets == 50 { self.fault } else { Fault::None };
        if fault == Fault::Close {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let keys = if *verb == "mg" { &keys[..1] } else { keys };
        for _ in 0..if fault == Fault::Duplicate { 2 } else { 1 } {
            for key in keys.iter().filter(|_| fault != Fault::Miss) {
                self.value(verb, if fault == Fault::OtherKey { "load:other" } else { key }, out);
            }
            out.extend_from_slice(if *verb == "get" { b"END\r\n" } else { b"" });
        }
        Ok(())
    }

    fn value(&self, verb: &str, key: &str, out: &mut Vec<u8>) {
        let values = self.values.lock().unwrap();
        let nothing = vec![b'?'; 100];
        let value = values.get(key).unwrap_or(&nothing);
        let head = match verb {
            "get" => format!("VALUE {key} 0 {}\r\n", value.len()),
            _ => format!("VA {}\r\n", value.len()),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    fn binary(
        &self,
        input: &mut BufReader<&TcpStream>,
        out: &mut Vec<u8>,
        authenticated: &mut bool,
    ) -> io::Result<()> {
        let mut header = [0; 24];
        input.read_exact(&mut header)?;
        let [_, opcode, _, key_len, extras, ..] = header;
        let len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let mut body = vec![0; len as usize];
        input.read_exact(&mut body)?;
        let (key, value) = body[usize::from(extras)..].split_at(usize::from(key_len));
        let key = String::from_utf8_lossy(key).into_owned();
        let mut status = 0;
        let reply = match opcode {
            0x21 => {
                let given = String::from_utf8_lossy(value).trim_start_matches('\0').replace('\0', " ");
                *authenticated = self.login == Some(&given);
                status = if *authenticated { 0 } else { 0x20 };
                b"Authenticated".to_vec()
            }
            0x00 => [&[0; 4][..], &self.values.lock().unwrap()[&key]].concat(),
            _ => {
                self.values.lock().unwrap().insert(key, value.to_vec());
                Vec::new()
            }
        };
        out.extend_from_slice(&[0x81, opcode, 0, 0, if opcode == 0 { 4 } else { 0 }, 0, 0, status]);
        out.extend_from_slice(&u32::try_from(reply.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&header[12..16]);
        out.extend_from_slice(b"some cas");
        out.extend_from_slice(&reply);
        Ok(())
    }
}
