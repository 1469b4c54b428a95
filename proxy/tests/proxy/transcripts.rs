//! Transcripts: requests and their replies, byte for byte. The proxy must reply so whatever memcached
//! runs behind it and however the bytes are split; a new enough memcached replies the same.

mod binary;
mod player;
mod script;

use std::path::Path;

use player::{Delivery, Names, Peer};
use script::Transcript;
use store::Token;
use testkit::{AdminConnection, Memcached, MemcachedBinary, Rng, StandaloneMemcached, TestProxy};

/// Random splits of each transcript.
const RANDOM_RUNS: usize = 3;

/// The network of the memcacheds behind the proxy; host numbers count up from `FIRST_HOST`.
const NETWORK: &str = "10.214.7.";
const FIRST_HOST: usize = 70;

fn transcripts() -> Vec<Transcript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        script::read(&name, &std::fs::read_to_string(file).unwrap())
    };
    files.iter().flat_map(read).collect()
}

fn names(token: &Token) -> Names {
    let login = testkit::text::credential(token).into_bytes();
    let length = login.len().to_string().into_bytes();
    Names::from([("login".to_owned(), login), ("#login".to_owned(), length)])
}

/// The proxy, as the user of one memcached sees it.
fn through(proxy: &TestProxy, token: &Token, name: String) -> Peer {
    let text = (testkit::text::login(token).into_bytes(), b"STORED\r\n".len());
    let binary = (testkit::binary::login(token), 24 + b"Authenticated".len());
    Peer { name, address: proxy.config.listen, logins: Some([text, binary]), names: names(token) }
}

/// Runs `transcript` against `peer` with all `deliveries`; returns the first mismatch.
fn hold(
    transcript: &Transcript,
    peer: &Peer,
    control: &mut AdminConnection,
    deliveries: &[Delivery],
) -> Option<String> {
    let mut rng = Rng::new(1);
    let deliveries =
        deliveries.iter().filter(|delivery| **delivery != Delivery::Pipelined || !transcript.uses_replies());
    let mismatch = |delivery: &Delivery| {
        control.run(b"flush_all noreply\r\n");
        peer.run(transcript, *delivery, &mut rng).err()
    };
    // One mismatch is enough: a missing reply takes a whole timeout.
    deliveries.into_iter().find_map(mismatch)
}

fn report(mismatches: &[String]) {
    assert!(mismatches.is_empty(), "{} mismatches:\n{}", mismatches.len(), mismatches.join("\n"));
}

// D-9, L-1, T-5, T-8.
#[test]
fn proxy_replies_the_same_in_front_of_every_memcached() {
    let proxy = TestProxy::start();
    let deliveries =
        [&[Delivery::Whole][..], &[Delivery::Chunked; RANDOM_RUNS], &[Delivery::Pipelined; RANDOM_RUNS]]
            .concat();
    let mut mismatches = Vec::new();
    for (number, program) in MemcachedBinary::all().into_iter().enumerate() {
        let token = proxy.sign_up(&format!("user{number}@example.com"));
        let name = format!("through the proxy to {}", program.version());
        let address = format!("{NETWORK}{}", FIRST_HOST + number);
        let memcached = Memcached::start_binary(program, &proxy, &token, &address);
        let mut control = memcached.admin_connection();
        let peer = through(&proxy, &token, name);
        for transcript in transcripts() {
            mismatches.extend(hold(&transcript, &peer, &mut control, &deliveries));
        }
    }
    report(&mismatches);
}

// D-8.
#[test]
fn reference_memcached_replies_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::generate();
    let login = folder.path().join("login");
    std::fs::write(&login, testkit::text::credential(&token).replace(' ', ":")).unwrap();
    let mut mismatches = Vec::new();
    for program in MemcachedBinary::all().into_iter().filter(|program| program.version().is_reference()) {
        let open = StandaloneMemcached::start(&program);
        let locked = StandaloneMemcached::start_with(&program, &["-Y", login.to_str().unwrap()]);
        let peer = |direct: &StandaloneMemcached| Peer {
            name: program.version().to_string(),
            address: direct.address,
            logins: None,
            names: names(&token),
        };
        let mut control = AdminConnection::open(open.address);
        for transcript in transcripts().iter().filter(|transcript| !transcript.differs()) {
            let direct = if transcript.has("unauthenticated") { &locked } else { &open };
            mismatches.extend(hold(transcript, &peer(direct), &mut control, &[Delivery::Whole]));
        }
    }
    report(&mismatches);
}
