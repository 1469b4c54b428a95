//! SCRAM-SHA-256, if it is enabled: with libmemcached, which prefers it, and message by message.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::DenialCause;
use testkit::{Memcached, TestProxy, binary};

/// Forwards connections to `proxy` and records what the clients send.
fn record_traffic(proxy: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let keep = recorded.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (server, keep) = (TcpStream::connect(proxy).unwrap(), keep.clone());
            let (back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut &back, &mut to_client));
            std::thread::spawn(move || forward(client, server, &keep));
        }
    });
    (address, recorded)
}

fn forward(mut client: TcpStream, mut server: TcpStream, keep: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
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

// S-8.
#[test]
fn libmemcached_scram_login_does_not_send_the_secret() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.40");
    let (user, secret) = (token.id().username(), token.secret().reveal());
    let (server, recorded) = record_traffic(proxy.config.listen);
    let note = proxy.data_dir.path().join("note.txt");
    std::fs::write(&note, "said in confidence").unwrap();
    let stored = tool("memccp", server, &user, secret, note.to_str().unwrap());
    assert!(stored.status.success(), "{stored:?}");
    let read = tool("memccat", server, &user, secret, "note.txt");
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim_end(), "said in confidence", "{read:?}");
    let read = tool("memccat", server, &user, &secret.replace(&secret[..1], "~"), "note.txt");
    assert!(read.stdout.is_empty() && !read.status.success(), "{read:?}");
    let recorded = recorded.lock().unwrap();
    let says = |what: &str| recorded.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(says("SCRAM-SHA-256") && says(&user) && !says("PLAIN"));
    assert!(!says(secret), "the secret was sent");
}

/// Returns the constant parts of the proxy's reply to a first message, and the time it took.
fn challenge(proxy: &TestProxy, name: &str) -> (Vec<u16>, String, Duration) {
    let started = Instant::now();
    let reply = proxy.exchange(&binary::request(0x21, "SCRAM-SHA-256", &format!("n,,n={name},r=abc")));
    let words = String::from_utf8(reply[24..].to_vec()).unwrap();
    let (nonce, salt) = words.split_once(',').unwrap();
    assert!(nonce.starts_with("r=abc") && nonce.len() == 5 + 24, "{words}");
    (binary::statuses(&reply), salt.to_owned(), started.elapsed())
}

// R-5, S-9.
#[test]
fn scram_does_not_reveal_which_ids_exist() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let [token, revoked] = ["ann@example.com", "eve@example.com"].map(|email| proxy.sign_up(email));
    let names = [token.id().username(), revoked.id().username(), "mg_nobodysToken".into(), "ann".into()];
    let before = challenge(&proxy, &names[1]).1;
    proxy.runtime.block_on(proxy.store.revoke_token(&revoked.id())).unwrap();
    let reply = names.clone().map(|name| challenge(&proxy, &name));
    for (name, (statuses, salt, took)) in names.iter().zip(&reply) {
        assert_eq!(statuses, &[0x21]);
        // A salt of 16 bytes, and the same iteration count for every name.
        assert!(salt.len() == "s=,i=4096".len() + 24 && salt.ends_with("==,i=4096"), "{salt}");
        assert_eq!(&challenge(&proxy, name).1, salt, "another salt for the same name");
        assert!(*took >= Duration::from_millis(20), "{name} was looked up in {took:?}");
    }
    assert_eq!(reply[1].1, before, "the salt changed with the revocation");
    let proof = format!("c=biws,r=x,p={}", "A".repeat(43) + "=");
    for name in names {
        let first = binary::request(0x21, "SCRAM-SHA-256", &format!("n,,n={name},r=abc"));
        let (step, end, get) = (
            binary::request(0x22, "SCRAM-SHA-256", &proof),
            binary::request(0x22, "SCRAM-SHA-256", ""),
            binary::request(0, "a", ""),
        );
        assert_eq!(
            binary::statuses(&proxy.exchange(&[first, step, end, get].concat())),
            [0x21, 0x20, 0x20, 0x20]
        );
    }
}

// S-5.
#[test]
fn scram_is_disabled_by_default() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let list = proxy.exchange(&binary::request(0x20, "", ""));
    assert_eq!(&list[24..], b"PLAIN");
    let first = format!("n,,n={},r=abc", token.id().username());
    assert_eq!(binary::statuses(&proxy.exchange(&binary::request(0x21, "SCRAM-SHA-256", &first))), [0x20]);
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let token = proxy.sign_up("ann@example.com");
    let plain = binary::login(&token);
    let list = binary::request(0x20, "", "");
    // The list is the same before and after login.
    let reply = proxy.exchange(&[list.clone(), plain, list].concat());
    assert_eq!(binary::statuses(&reply), [0; 3]);
    assert_eq!(String::from_utf8_lossy(&reply).matches("SCRAM-SHA-256 PLAIN").count(), 2);
}

/// libmemcached 1.0.x does that: it chooses SCRAM, doesn't understand the challenge, and closes without a word.
// S-8.
#[test]
fn client_that_leaves_in_the_middle_of_scram_is_recorded() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let token = proxy.sign_up("ann@example.com");
    let _ = challenge(&proxy, &token.id().username());
    let denials = proxy.wait_for_denials(&token, 1);
    assert_eq!((denials[0].cause, denials[0].count), (DenialCause::ScramUnfinished, 1));
    assert!(denials[0].cause.fix().contains("proxy.scram = false"));
    assert!(proxy.metrics().contains("memgate_proxy_logins_total{outcome=\"scram_unfinished\"} 1\n"));
}
