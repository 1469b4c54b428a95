//! SCRAM-SHA-256 where it is offered: with libmemcached, which then prefers it, and by hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::door::{Door, sasl};
use super::memcached::Memcached;
use super::statuses;

/// Passes connections on to the door and keeps what the callers say.
fn overhear(door: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let keep = heard.clone();
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let (server, keep) = (TcpStream::connect(door).unwrap(), keep.clone());
            let (back, mut to_caller) = (server.try_clone().unwrap(), caller.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut &back, &mut to_caller));
            std::thread::spawn(move || pass_on(caller, server, &keep));
        }
    });
    (address, heard)
}

fn pass_on(mut caller: TcpStream, mut server: TcpStream, keep: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = caller.read(&mut buffer) {
        keep.lock().unwrap().extend_from_slice(&buffer[..n]);
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
}

pub(super) fn tool(name: &str, server: SocketAddr, username: &str, password: &str, what: &str) -> Output {
    Command::new(name)
        .arg("--binary")
        .arg(format!("--servers={server}"))
        .args([&format!("--username={username}"), &format!("--password={password}"), what])
        .output()
        .unwrap_or_else(|error| panic!("{name} (Debian's libmemcached-tools): {error}"))
}

#[test]
fn libmemcached_logs_in_without_telling_its_password() {
    let door = Door::open_with(|config| config.scram = true);
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.40");
    let (user, secret) = (token.id().username(), token.secret().reveal());
    let (server, heard) = overhear(door.config.listen);
    let note = door.folder.path().join("note.txt");
    std::fs::write(&note, "said in confidence").unwrap();
    let stored = tool("memccp", server, &user, secret, note.to_str().unwrap());
    assert!(stored.status.success(), "{stored:?}");
    let read = tool("memccat", server, &user, secret, "note.txt");
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim_end(), "said in confidence", "{read:?}");
    let read = tool("memccat", server, &user, &secret.replace(&secret[..1], "~"), "note.txt");
    assert!(read.stdout.is_empty() && !read.status.success(), "{read:?}");
    let heard = heard.lock().unwrap();
    let says = |what: &str| heard.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(says("SCRAM-SHA-256") && says(&user) && !says("PLAIN"));
    assert!(!says(secret), "the password went over the wire");
}

/// What the door answers to a first message, without what differs each time.
fn challenge(door: &Door, name: &str) -> (Vec<u16>, String, Duration) {
    let begun = Instant::now();
    let said = door.converse(&sasl(0x21, "SCRAM-SHA-256", &format!("n,,n={name},r=abc")));
    let words = String::from_utf8(said[24..].to_vec()).unwrap();
    let (nonce, salt) = words.split_once(',').unwrap();
    assert!(nonce.starts_with("r=abc") && nonce.len() == 5 + 24, "{words}");
    (statuses(&said), salt.to_owned(), begun.elapsed())
}

#[test]
fn nobody_learns_who_exists() {
    let door = Door::open_with(|config| config.scram = true);
    let [token, revoked] = ["ann@example.com", "eve@example.com"].map(|email| door.sign_up(email));
    let names = [token.id().username(), revoked.id().username(), "mg_nobodysToken".into(), "ann".into()];
    let before = challenge(&door, &names[1]).1;
    door.runtime.block_on(door.store.revoke_token(&revoked.id())).unwrap();
    let said = names.clone().map(|name| challenge(&door, &name));
    for (name, (statuses, salt, took)) in names.iter().zip(&said) {
        assert_eq!(statuses, &[0x21]);
        // A salt of 16 bytes, and as many rounds as everybody.
        assert!(salt.len() == "s=,i=4096".len() + 24 && salt.ends_with("==,i=4096"), "{salt}");
        assert_eq!(&challenge(&door, name).1, salt, "another salt for the same name");
        assert!(*took >= Duration::from_millis(20), "{name} was looked up in {took:?}");
    }
    assert_eq!(said[1].1, before, "its salt tells that it was revoked");
    let proof = format!("c=biws,r=x,p={}", "A".repeat(43) + "=");
    for name in names {
        let first = sasl(0x21, "SCRAM-SHA-256", &format!("n,,n={name},r=abc"));
        let (step, end, get) =
            (sasl(0x22, "SCRAM-SHA-256", &proof), sasl(0x22, "SCRAM-SHA-256", ""), sasl(0, "a", ""));
        assert_eq!(statuses(&door.converse(&[first, step, end, get].concat())), [0x21, 0x20, 0x20, 0x20]);
    }
}

#[test]
fn it_is_not_there_unless_it_is_asked_for() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let list = door.converse(&sasl(0x20, "", ""));
    assert_eq!(&list[24..], b"PLAIN");
    let first = format!("n,,n={},r=abc", token.id().username());
    assert_eq!(statuses(&door.converse(&sasl(0x21, "SCRAM-SHA-256", &first))), [0x20]);
    let door = Door::open_with(|config| config.scram = true);
    let token = door.sign_up("ann@example.com");
    let plain = sasl(0x21, "PLAIN", &format!("\0{}\0{}", token.id().username(), token.secret().reveal()));
    let list = sasl(0x20, "", "");
    // The same before and after login.
    let said = door.converse(&[list.clone(), plain, list].concat());
    assert_eq!(statuses(&said), [0; 3]);
    assert_eq!(String::from_utf8_lossy(&said).matches("SCRAM-SHA-256 PLAIN").count(), 2);
}
