//! Logins over real sockets with a real store, without a memcached: which credentials are accepted, and
//! what each attempt is answered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{NewToken, NewUser, Permissions, Token};

use testkit::{Memcached, TestProxy, binary, text, token_key};

pub(super) const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable\r\n";
pub(super) const FAILURE: &str = "CLIENT_ERROR authentication failure\r\n";

/// `proxy.listen = "[::]:11211"`, for clients to which localhost is ::1. Addresses of IPv4 clients stay what they are.
#[test]
fn ipv6_listener_takes_ipv4_too() {
    let proxy = TestProxy::start_with(|config| config.listen = "[::]:0".parse().unwrap());
    let everybody = proxy.sign_up("ann@example.com");
    let here = Permissions { allow_from: vec!["127.0.0.1/32".parse().unwrap()], ..Permissions::ALL };
    let here = proxy.create_token(&everybody, here);
    let port = proxy.config.listen.port();
    let log_in = |address: &str, token: &Token| {
        let mut stream = TcpStream::connect((address, port)).unwrap();
        stream.write_all((text::login(token) + "quit\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    assert_eq!(log_in("127.0.0.1", &everybody), "STORED\r\n");
    assert_eq!(log_in("127.0.0.1", &here), "STORED\r\n");
    // A machine without ::1 has no client there.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(log_in("::1", &everybody), "STORED\r\n");
        assert_eq!(log_in("::1", &here), FAILURE);
    }
}

// S-12, S-13.
#[test]
fn every_login_form_is_accepted() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let (user, secret, whole) = (token.id().username(), token.secret().reveal().to_owned(), token.reveal());
    for login in [
        text::login(&token),
        text::set("x", &format!("{user} {whole}")),
        text::set("x", &whole),
        text::set(&user, &secret),
        text::set("k", &text::credential(&token)).replace(" 0 0 ", " y z ").replacen("\r\n", " noreply\n", 1),
    ] {
        // There is no memcached: a backend error shows that the login succeeded.
        assert_eq!(
            proxy.exchange_text(&format!("{login}get a b\r\nquit\r\n")),
            format!("STORED\r\n{UNAVAILABLE}")
        );
    }
    let (list, get) = (binary::request(0x20, "", ""), binary::request(0x00, "a", ""));
    for message in [format!("\0{user}\0{secret}"), format!("{user}\0{user}\0{secret}")] {
        let reply =
            proxy.exchange(&[list.clone(), binary::request(0x21, "PLAIN", &message), get.clone()].concat());
        assert_eq!(binary::statuses(&reply), [0, 0, 0x86]);
    }
    let steps = [
        binary::request(0x21, "plain", ""),
        binary::request(0x22, "plain", &format!("\0{user}\0{secret}")),
        get.clone(),
    ];
    assert_eq!(binary::statuses(&proxy.exchange(&steps.concat())), [0x21, 0, 0x86]);
}

// R-5, V-4, S-7.
#[test]
fn wrong_credentials_get_the_same_delayed_error() {
    let proxy = TestProxy::start();
    let (token, other) = (proxy.sign_up("ann@example.com"), Token::generate());
    let revoked = proxy.sign_up("eve@example.com");
    proxy.runtime.block_on(proxy.store.revoke_token(&revoked.id())).unwrap();
    let mistyped = {
        let mut text = text::credential(&token);
        let last = text.pop().unwrap();
        text.push(if last == 'x' { 'y' } else { 'x' });
        text
    };
    for payload in [
        text::credential(&other),
        mistyped,
        text::credential(&revoked),
        format!("{} {}", token.id().username(), other.secret().reveal()),
        format!(" {}", token.secret().reveal()),
        "user pass".to_owned(),
    ] {
        let started = Instant::now();
        let mut stream = proxy.connect();
        stream.write_all(text::set("x", &payload).as_bytes()).unwrap();
        let mut reply = [0; FAILURE.len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(std::str::from_utf8(&reply), Ok(FAILURE), "{payload}");
        assert!(started.elapsed() >= Duration::from_millis(20));
        // The client may try again.
        stream.write_all(text::login(&token).as_bytes()).unwrap();
        let mut reply = [0; 8];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"STORED\r\n");
    }
}

//
#[test]
fn revoked_token_closes_its_connections() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    let other = NewToken::generate(&token_key(proxy.data_dir.path()), "other");
    let cache = proxy.runtime.block_on(proxy.store.token(&token.id())).unwrap().unwrap().cache_id;
    proxy.runtime.block_on(proxy.store.create_token(&cache, &other)).unwrap();
    let [mut live, mut neighbour] = [&token, &other.token].map(|token| {
        let mut stream = proxy.connect();
        stream.write_all(text::login(token).as_bytes()).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream
    });
    proxy.runtime.block_on(proxy.store.revoke_token(&token.id())).unwrap();
    let revoked_at = Instant::now();
    // Live connections of that token close, and only those.
    assert!(matches!(live.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(revoked_at.elapsed() < Duration::from_secs(1), "the connection stays open");
    neighbour.write_all(b"bogus\r\n").unwrap();
    let mut reply = [0; 7];
    neighbour.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"ERROR\r\n");
    while proxy.exchange_text(&login) != FAILURE {
        assert!(revoked_at.elapsed() < Duration::from_secs(1), "the revoked token still logs in");
    }
}

// R-14, D-1, R-4.
#[test]
fn unauthenticated_client_gets_few_replies() {
    let proxy = TestProxy::start();
    let unauthenticated = "CLIENT_ERROR unauthenticated\r\n";
    assert_eq!(proxy.exchange_text("get aaa\r\nversion\r\n"), unauthenticated.repeat(2));
    assert_eq!(proxy.exchange_text(&"get aaa\r\n".repeat(100)), unauthenticated.repeat(16));
    assert_eq!(proxy.exchange_text(&text::set("x", "user pass").repeat(9)), FAILURE.repeat(3));
    for silent in ["quit\r\n", "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &"x".repeat(3000)] {
        assert_eq!(proxy.exchange_text(silent), "", "{silent:?}");
    }
    let (get, bad) = (binary::request(0x00, "a", ""), binary::request(0x21, "PLAIN", "\0user\0pass"));
    assert_eq!(binary::statuses(&proxy.exchange(&get.repeat(3))), [0x20]);
    assert_eq!(binary::statuses(&proxy.exchange(&bad.repeat(9))), [0x20; 3]);
    assert_eq!(
        binary::statuses(&proxy.exchange(&binary::request(0x21, "PLAIN", &"x".repeat(20_000)))),
        [0x82]
    );
}

// V-1.
#[test]
fn failed_login_cancels_an_earlier_one() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let good = binary::plain(&token);
    let (good, bad) = (binary::request(0x21, "PLAIN", &good), binary::request(0x21, "PLAIN", "\0user\0pass"));
    let (list, get) = (binary::request(0x20, "", ""), binary::request(0x00, "a", ""));
    let reply = proxy.exchange(&[&good[..], &get, &bad, &get, &get].concat());
    assert_eq!(binary::statuses(&reply), [0, 0x86, 0x20, 0x20]);
    let reply = proxy.exchange(&[&good[..], &bad, &good, &list, &get].concat());
    assert_eq!(binary::statuses(&reply), [0, 0x20, 0, 0, 0x86]);
}

// D-11.
#[test]
fn repeated_login_is_not_stored() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    assert_eq!(proxy.exchange_text(&format!("{login}{login}quit\r\n")), "STORED\r\nSTORED\r\n");
    // A token of another cache of the same user, known to the proxy, isn't stored either.
    let second = text::login(&proxy.create_cache(&token, "second"));
    assert_eq!(proxy.exchange_text(&format!("{second}quit\r\n")), "STORED\r\n");
    assert_eq!(proxy.exchange_text(&format!("{login}{second}quit\r\n")), "STORED\r\nSTORED\r\n");
    // So is one that the proxy hasn't seen yet.
    let third = text::login(&proxy.create_cache(&token, "third"));
    assert_eq!(proxy.exchange_text(&format!("{login}{third}quit\r\n")), "STORED\r\nSTORED\r\n");
}

/// Credentials that are well-formed and not a valid one of the connection's user, as keys and values.
fn foreign_credentials(revoked: &Token, other: &Token) -> Vec<(String, String)> {
    let (user, secret, whole) = (other.id().username(), other.secret().reveal().to_owned(), other.reveal());
    let unknown = Token::generate();
    let x = || "x".to_owned();
    vec![
        (x(), whole.clone()),
        (x(), format!("{user} {secret}")),
        (x(), format!("{user} {whole}")),
        (user.clone(), secret),
        (user, whole),
        (x(), unknown.reveal()),
        (x(), text::credential(&unknown)),
        (x(), text::credential(revoked)),
    ]
}

// R-38, D-14.
#[test]
fn another_users_credential_is_never_stored() {
    let proxy = TestProxy::start();
    let (token, other) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.16");
    let revoked = proxy.create_token(&token, Permissions::ALL);
    proxy.runtime.block_on(proxy.store.revoke_token(&revoked.id())).unwrap();
    let login = text::login(&token);
    for (key, value) in foreign_credentials(&revoked, &other) {
        for flags in ["0 0", "7 60"] {
            for noreply in ["", " noreply"] {
                let set = format!("set {key} {flags} {}{noreply}\r\n{value}\r\n", value.len());
                let started = Instant::now();
                let reply = proxy.exchange_text(&format!("{login}get a\r\n{set}get {key}\r\n"));
                assert_eq!(reply, format!("STORED\r\nEND\r\n{FAILURE}"), "{set}");
                // As any failed login.
                assert!(started.elapsed() >= Duration::from_millis(20));
            }
        }
        assert_eq!(proxy.exchange_text(&format!("{login}get {key}\r\n")), "STORED\r\nEND\r\n");
    }
    for (token, cause) in [(&token, "foreign_credential"), (&revoked, "revoked")] {
        let denials = proxy.wait_for_denials(token, 1);
        assert!(denials.iter().any(|denial| denial.cause.as_str() == cause), "{denials:?}");
    }
    // What isn't a credential, or belongs to a command that is no login, is a value.
    let credential = text::credential(&other);
    let mistyped = format!("{}{}", &credential[..credential.len() - 1], '!');
    let stored = format!(
        "add y 0 0 {}\r\n{credential}\r\nms z {}\r\n{credential}\r\n",
        credential.len(),
        credential.len()
    );
    assert_eq!(
        proxy.exchange_text(&format!("{login}{}{stored}quit\r\n", text::set("x", &mistyped))),
        "STORED\r\nSTORED\r\nSTORED\r\nHD\r\n"
    );
}

// R-38, D-14.
#[test]
fn foreign_credentials_slow_no_login_of_their_source_down() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    let started = Instant::now();
    for _ in 0..20 {
        let made_up = text::set("x", &Token::generate().reveal());
        assert_eq!(proxy.exchange_text(&format!("{login}{made_up}")), format!("STORED\r\n{FAILURE}"));
    }
    assert_eq!(proxy.exchange_text(&text::set("x", "user pass")), FAILURE);
    // Counted for the source they would take 13 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

// D-11, R-9.
#[test]
fn repeated_text_logins_end_a_turn_and_none_is_lost() {
    const TIMES: usize = 5_000;
    let proxy = TestProxy::start();
    let login = text::login(&proxy.sign_up("ann@example.com"));
    let reply = proxy.exchange_text(&format!("{}mn\r\nquit\r\n", login.repeat(TIMES)));
    assert_eq!(reply, format!("{}MN\r\n", "STORED\r\n".repeat(TIMES)));
}

//
#[test]
fn unauthenticated_client_times_out_after_five_seconds() {
    let proxy = TestProxy::start();
    let started = Instant::now();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| proxy.connect()).collect();
    clients[1].write_all(b"set x 0 0 100\r\nmg_").unwrap();
    clients[2].write_all(&[0x80, 0x21, 0]).unwrap();
    for mut client in clients {
        assert!(matches!(client.read(&mut [0; 10]), Ok(0) | Err(_)));
    }
    let took = started.elapsed();
    assert!((4..8).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn repeated_logins_do_not_recurse() {
    // Deep enough to overflow the stack if each login recursed into the next.
    const TIMES: usize = 20_000;
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let good = binary::plain(&token);
    let mut stream = proxy.connect();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut reply = Vec::new();
        reading.read_to_end(&mut reply).unwrap();
        binary::statuses(&reply)
    });
    stream.write_all(&binary::request(0x21, "PLAIN", &good).repeat(TIMES)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reader.join().unwrap(), [0; TIMES]);
}

// R-5, D-1.
#[test]
fn every_pipelined_failed_login_is_delayed() {
    let proxy = TestProxy::start();
    let started = Instant::now();
    let both = text::set("x", "user pass").repeat(2);
    assert_eq!(proxy.exchange_text(&both), FAILURE.repeat(2));
    assert!(started.elapsed() >= Duration::from_millis(40), "the second reply was not delayed");
}

// B-1.
#[test]
fn login_typed_by_hand_may_end_in_a_bare_line_feed() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let typed = text::login(&token).replace("\r\n", "\n");
    assert_eq!(proxy.exchange_text(&(typed + "verbosity 0\n")), "STORED\r\nOK\r\n");
    let wrong = text::set("x", "user pass").replace("\r\n", "\n") + "x";
    assert_eq!(proxy.exchange_text(&wrong), "CLIENT_ERROR bad command line termination\r\n");
}

#[test]
fn new_token_works_after_its_id_was_cached_as_unknown() {
    let proxy = TestProxy::start();
    let token = NewToken::generate(&token_key(proxy.data_dir.path()), "test");
    let login = text::login(&token.token);
    assert_eq!(proxy.exchange_text(&login), FAILURE);
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    proxy.runtime.block_on(proxy.store.sign_up(&user, &token)).unwrap();
    let made_at = Instant::now();
    while proxy.exchange_text(&login) != "STORED\r\n" {
        assert!(made_at.elapsed() < Duration::from_secs(1), "the token is still unknown");
    }
}

// F-7.
#[test]
fn busy_client_does_not_delay_shutdown() {
    let mut proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut stream = proxy.connect();
    let mut reading = stream.try_clone().unwrap();
    stream.write_all(text::login(&token).as_bytes()).unwrap();
    let mut welcome = [0; 8];
    reading.read_exact(&mut welcome).unwrap();
    let writer = std::thread::spawn(move || while stream.write_all(&b"get a\r\n".repeat(1000)).is_ok() {});
    let mut reply = vec![0; UNAVAILABLE.len() * 1000];
    reading.read_exact(&mut reply).unwrap();
    assert_eq!(String::from_utf8(reply).unwrap(), UNAVAILABLE.repeat(1000));
    let reader = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    let started = Instant::now();
    proxy.shutdown.begin();
    proxy.thread.take().unwrap().join().unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    writer.join().unwrap();
    let _ = reader.join().unwrap();
}

//
#[test]
fn login_that_is_not_finished_in_time_is_counted() {
    let proxy = TestProxy::start();
    let mut client = proxy.connect();
    client.write_all(b"set x 0 0 100\r\nmg_").unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(proxy.metrics().contains("memgate_proxy_logins_total{outcome=\"timed_out\"} 1\n"));
}
