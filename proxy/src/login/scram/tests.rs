//! RFC 7677's example, honest clients, and all that is none.

use std::sync::LazyLock;

use pbkdf2::pbkdf2_hmac;

use super::*;

const PASSWORD: &[u8] = b"pencil";

/// What is kept of [`PASSWORD`], salted as in RFC 7677.
fn keys() -> ScramKeys {
    static KEYS: LazyLock<ScramKeys> = LazyLock::new(make_keys);
    KEYS.clone()
}

fn make_keys() -> ScramKeys {
    let salt: [u8; 16] = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
    let client_key = hmac(&salted(PASSWORD, &salt), &[b"Client Key"]);
    ScramKeys {
        salt,
        iterations: 4096,
        stored_key: Sha256::digest(client_key).into(),
        server_key: hmac(&salted(PASSWORD, &salt), &[b"Server Key"]),
    }
}

fn salted(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut salted = [0; 32];
    pbkdf2_hmac::<Sha256>(password, salt, 4096, &mut salted);
    salted
}

/// An honest client's last message, with the proof for `without_proof` and both first messages.
fn honest(password: &[u8], first_bare: &str, server_first: &str, without_proof: &str) -> String {
    let client_key = hmac(&salted(password, &keys().salt), &[b"Client Key"]);
    let auth = format!("{first_bare},{server_first},{without_proof}");
    let signature = hmac(&Sha256::digest(client_key).into(), &[auth.as_bytes()]);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    format!("{without_proof},p={}", STANDARD.encode(proof))
}

fn begin(first: &str) -> Scram {
    Scram::new(name_of(first.as_bytes()).unwrap(), keys(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned())
}

fn proceed(exchange: &mut Scram, message: &str) -> Option<String> {
    match exchange.respond(message.as_bytes()) {
        Ok(Response::Proceed(words)) => Some(String::from_utf8(words).unwrap()),
        Ok(Response::Success(..)) => panic!("success without an end"),
        Err(_) => None,
    }
}

/// All three messages of a client that knows a password.
fn exchange(first: &str, c: &str, password: &[u8]) -> Option<String> {
    let mut exchange = begin(first);
    let server_first = proceed(&mut exchange, first)?;
    let (_, bare) = first.split_at(first.match_indices(',').nth(1).unwrap().0 + 1);
    let nonce = server_first.split(',').next().unwrap();
    let last = honest(password, bare, &server_first, &format!("c={c},{nonce}"));
    let words = proceed(&mut exchange, &last)?;
    match exchange.respond(b"") {
        Ok(Response::Success(Identity::Username(name), data)) if data.is_empty() => {
            assert_eq!(name, exchange.user());
        }
        _ => panic!("no success after {words}"),
    }
    assert!(exchange.respond(b"").is_err(), "it is over");
    Some(words)
}

// S-9, S-10.
#[test]
fn the_example_of_rfc_7677() {
    let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    let mut exchange = begin(first);
    assert_eq!(
        proceed(&mut exchange, first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(proceed(&mut exchange, last).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert!(matches!(exchange.respond(b""), Ok(Response::Success(..))));
}

#[test]
fn honest_clients_of_all_kinds_get_in_and_no_other_password_does() {
    let header = |header: &str| STANDARD.encode(header);
    for (first, c) in [
        ("n,,n=user,r=abc", header("n,,")),
        ("y,,n=user,r=abc", header("y,,")),
        ("n,a=user,n=user,r=abc", header("n,a=user,")),
        ("n,a=a=2Cb=3Dc,n=a=2Cb=3Dc,r=abc", header("n,a=a=2Cb=3Dc,")),
        ("n,,n=us\u{e9}r,r=!\"#$=+,x=later", header("n,,")),
    ] {
        assert!(exchange(first, &c, PASSWORD).is_some(), "{first}");
        assert_eq!(exchange(first, &c, b"pencil "), None, "{first}");
        assert_eq!(exchange(first, &c, b""), None, "{first}");
    }
    // A header other than the first message's: it was changed on the way.
    for c in ["n,,", "y,,", "n,a=else,", "p=tls-unique,,", ""] {
        assert_eq!(exchange("n,a=user,n=user,r=abc", &header(c), PASSWORD), None, "{c}");
    }
    // Another nonce, proven honestly.
    let mut exchange = begin("n,,n=user,r=abc");
    let server_first = proceed(&mut exchange, "n,,n=user,r=abc").unwrap();
    let last = honest(PASSWORD, "n=user,r=abc", &server_first, "c=biws,r=abc");
    assert_eq!(proceed(&mut exchange, &last), None);
}

// S-9, S-11.
#[test]
fn first_messages_that_are_none() {
    for message in [
        "",
        "n",
        "n,",
        "n,,",
        ",,n=user,r=x",
        "n,,r=x",
        "n,,n=user",
        "n,,n=user,",
        "n,,n=user,r=",
        "n,,n=,r=x",
        "n,,n=user,r=x,",
        "n,,n=user,r=x,y",
        "n,,n=user,r=x,y=",
        "n,,n=user,r=x,m=y",
        "n,,m=y,n=user,r=x",
        "n,,n=user,r=x,r=y",
        "n,,n=user,r=x y",
        "n,,n=user,r=\u{e9}",
        "n,a,n=user,r=x",
        "n,a=,n=user,r=x",
        "n,a=else,n=user,r=x",
        "n,user,n=user,r=x",
        "p=tls-unique,,n=user,r=x",
        "N,,n=user,r=x",
        " n,,n=user,r=x",
        "n,,n=us=er,r=x",
        "n,,n=us=2c,r=x",
        "n,,n=user=,r=x",
        "n,,n=us\0er,r=x",
        "n,,,n",
        "n,,r=x,n=user",
    ] {
        assert_eq!(First::read(message.as_bytes()), None, "{message:?}");
    }
    assert_eq!(First::read(b"n,,n=us\xffr,r=x"), None);
    let long = |len| format!("n,,n=user,r={}", "x".repeat(len - 12));
    assert!(First::read(long(MESSAGE_MAX).as_bytes()).is_some());
    assert!(First::read(long(MESSAGE_MAX + 1).as_bytes()).is_none());
    let first = First::read(b"y,a=a=2Cb=3D,n=a=2Cb=3D,r=x,z==").unwrap();
    assert_eq!((first.gs2_header, first.name.as_str()), (&b"y,a=a=2Cb=3D,"[..], "a,b="));
}

#[test]
fn last_messages_that_are_none() {
    let proof = STANDARD.encode([9; 32]);
    let read = |message: String| Last::read(message.as_bytes()).is_some();
    assert!(read(format!("c=biws,r=x,p={proof}")) && read(format!("c=biws,r=x,z=y,p={proof}")));
    for message in [
        String::new(),
        format!("p={proof}"),
        format!("r=x,p={proof}"),
        format!("c=biws,p={proof}"),
        format!("r=x,c=biws,p={proof}"),
        format!("c=bi!s,r=x,p={proof}"),
        format!("c=biws,r=,p={proof}"),
        format!("c=biws,r=x,m=y,p={proof}"),
        format!("c=biws,r=x,p={proof},z=y"),
        format!("c=biws,r=x,p={proof}="),
        format!("c=biws,r=x,p={}", proof.trim_end_matches('=')),
        format!("c=biws,r=x,p={}", STANDARD.encode([9; 31])),
        format!("c=biws,r=x,p={}", STANDARD.encode([9; 33])),
        "c=biws,r=x,p=".to_owned(),
        "c=biws,r=x".to_owned(),
        format!("c=biws,r={},p={proof}", "x".repeat(MESSAGE_MAX)),
    ] {
        assert!(!read(message.clone()), "{message}");
    }
}

#[test]
fn one_changed_bit_anywhere_is_refused() {
    let first = "n,a=user,n=user,r=abc";
    let mut exchange = begin(first);
    let server_first = proceed(&mut exchange, first).unwrap();
    let c = STANDARD.encode("n,a=user,");
    let nonce = server_first.split(',').next().unwrap();
    let last = honest(PASSWORD, "n=user,r=abc", &server_first, &format!("c={c},{nonce}"));
    assert!(proceed(&mut exchange, &last).is_some());
    for bit in 0..last.len() * 8 {
        let mut changed = last.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut exchange = begin(first);
        assert_eq!(proceed(&mut exchange, first).unwrap(), server_first, "our nonce is a constant here");
        assert!(exchange.respond(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_proof_is_good_for_its_own_exchange_only() {
    let first = "n,,n=user,r=abc";
    let mut one = begin(first);
    let server_first = proceed(&mut one, first).unwrap();
    let nonce = server_first.split(',').next().unwrap();
    let last = honest(PASSWORD, "n=user,r=abc", &server_first, &format!("c=biws,{nonce}"));
    let mut other = Scram::new("user".to_owned(), keys(), "another".to_owned());
    proceed(&mut other, first).unwrap();
    assert_eq!(proceed(&mut other, &last), None);
    assert!(other.respond(last.as_bytes()).is_err(), "an error is the end");
    assert!(proceed(&mut one, &last).is_some());
    assert!(one.respond(last.as_bytes()).is_err(), "only an empty message ends it well");
    assert!(one.respond(b"").is_err());
    // Keys that no secret fits.
    let mut disabled = Scram::new("user".to_owned(), keys().disabled(), "nonce".to_owned());
    let server_first = proceed(&mut disabled, first).unwrap();
    let last = honest(PASSWORD, "n=user,r=abc", &server_first, "c=biws,r=abcnonce");
    assert_eq!(proceed(&mut disabled, &last), None);
}
