//! What is said to the door, and what it answers, byte for byte: the same through every memcached, however
//! it is split, and the same as a memcached that is new enough says itself.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/direct.rs"]
mod direct;
#[path = "support/door.rs"]
mod door;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/pieces.rs"]
mod pieces;

#[path = "transcripts/binary.rs"]
mod binary;
#[path = "transcripts/play.rs"]
mod play;
#[path = "transcripts/script.rs"]
mod script;

use std::path::Path;

use dice::Dice;
use direct::{Control, Direct};
use door::{Door, pair, sasl, set};
use memcached::{Memcached, Program};
use play::{Manner, Names, Partner};
use script::Transcript;
use store::Token;

/// How often each is split anew.
const SPLITS: usize = 3;

/// The address of each memcached behind the proxy, but for the last number, which counts on from here.
const NETWORK: &str = "10.214.7.";
const FIRST: usize = 70;

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
    let login = pair(token).into_bytes();
    let length = login.len().to_string().into_bytes();
    Names::from([("login".to_owned(), login), ("#login".to_owned(), length)])
}

/// The door, as the user of one memcached.
fn through(door: &Door, token: &Token, name: String) -> Partner {
    let message = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let text = (set("x", &pair(token)).into_bytes(), b"STORED\r\n".len());
    let binary = (sasl(0x21, "PLAIN", &message), 24 + b"Authenticated".len());
    Partner { name, address: door.config.listen, logins: Some([text, binary]), names: names(token) }
}

/// Holds `transcript` with `partner` in all `manners`; what went another way.
fn hold(
    transcript: &Transcript,
    partner: &Partner,
    control: &mut Control,
    manners: &[Manner],
) -> Option<String> {
    let mut dice = Dice::new(1);
    let manners = manners.iter().filter(|manner| **manner != Manner::AtOnce || !transcript.looks_back());
    let surprise = |manner: &Manner| {
        control.run(b"flush_all noreply\r\n");
        partner.play(transcript, *manner, &mut dice).err()
    };
    // One is enough: whoever waits for what never comes waits long.
    manners.into_iter().find_map(surprise)
}

fn report(surprises: &[String]) {
    assert!(surprises.is_empty(), "{} surprises:\n{}", surprises.len(), surprises.join("\n"));
}

#[test]
fn whatever_runs_behind_it_the_door_says_this() {
    let door = Door::open();
    let manners = [&[Manner::Whole][..], &[Manner::Split; SPLITS], &[Manner::AtOnce; SPLITS]].concat();
    let mut surprises = Vec::new();
    for (number, program) in Program::all().into_iter().enumerate() {
        let token = door.sign_up(&format!("user{number}@example.com"));
        let name = format!("through the door to {}", program.version());
        let address = format!("{NETWORK}{}", FIRST + number);
        let memcached = Memcached::start_program(program, &door, &token, &address);
        let mut control = memcached.back_door();
        let partner = through(&door, &token, name);
        for transcript in transcripts() {
            surprises.extend(hold(&transcript, &partner, &mut control, &manners));
        }
    }
    report(&surprises);
}

#[test]
fn memcached_itself_says_this_where_it_is_new_enough() {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::generate();
    let login = folder.path().join("login");
    std::fs::write(&login, pair(&token).replace(' ', ":")).unwrap();
    let mut surprises = Vec::new();
    for program in Program::all().into_iter().filter(|program| program.version().is_model()) {
        let open = Direct::start(&program);
        let locked = Direct::start_with(&program, &["-Y", login.to_str().unwrap()]);
        let partner = |direct: &Direct| Partner {
            name: program.version().to_string(),
            address: direct.address,
            logins: None,
            names: names(&token),
        };
        let mut control = Control::to(open.address);
        for transcript in transcripts().iter().filter(|transcript| !transcript.differs()) {
            let direct = if transcript.has("stranger") { &locked } else { &open };
            surprises.extend(hold(transcript, &partner(direct), &mut control, &[Manner::Whole]));
        }
    }
    report(&surprises);
}
