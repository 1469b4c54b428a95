//! Real clients against real containers: values from 1 byte to 1 MB, nobody else's, and none after revocation.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Credentials, Product, wait_until, within};
use crate::text::Text;

/// Bytes of values: 1 MB in memcached's sense leaves room for the item's own head.
const SIZES: [usize; 6] = [1, 100, 1024, 16 * 1024, 512 * 1024, 1_000_000];

fn python() -> PathBuf {
    let named = std::env::var_os("MEMGATE_TEST_PYTHON").map(PathBuf::from);
    let python = named
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin/python"));
    assert!(python.exists(), "the Python clients are missing: run ./deploy/test, which installs them");
    python
}

/// Runs tests/clients/SCRIPT with where and who; the script fails by itself at what it doesn't like.
fn script(product: &Product, script: &str, arguments: &[&str], who: &Credentials) -> Output {
    Command::new(python())
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script))
        .args(arguments)
        .args([&product.endpoint().to_string(), &who.username, &who.password])
        .args(SIZES.map(|size| size.to_string()))
        .output()
        .unwrap()
}

fn passes(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn python_clients_store_and_read_back() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for client in ["binary.py", "text.py"] {
        passes(&script(&product, client, &["use"], &ada), client);
        passes(&script(&product, client, &["find-nothing"], &bob), client);
    }
    let spare = product.credentials(&["token", "create", &ada.email, "--name", "spare"]);
    product.json(&["token", "revoke", &spare.username]);
    let login = format!("{} {}", spare.username, spare.password);
    wait_until(within(1), "the revoked token is refused", || {
        Text::connect(product.endpoint()).set("auth", login.as_bytes()) != "STORED"
    });
    for client in ["binary.py", "text.py"] {
        passes(&script(&product, client, &["be-refused"], &spare), client);
        passes(&script(&product, client, &["use"], &ada), client);
    }
}

/// memccp and memccat with SASL.
fn libmemcached(product: &Product, program: &str, who: &Credentials, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(["--binary", &format!("--servers={}", product.endpoint())])
        .args([format!("--username={}", who.username), format!("--password={}", who.password)])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn libmemcached_stores_and_reads_back() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for size in SIZES {
        let key = format!("file{size}");
        let path = product.folder().join(&key);
        let value: Vec<u8> = (0..size).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
        fs::write(&path, &value).unwrap();
        passes(&libmemcached(&product, "memccp", &ada, &[path.to_str().unwrap()]), "memccp");
        let read = libmemcached(&product, "memccat", &ada, &[&key]);
        passes(&read, "memccat");
        assert_eq!(read.stdout.strip_suffix(b"\n").unwrap_or(&read.stdout), value, "{size} bytes");
        assert!(
            !libmemcached(&product, "memccat", &bob, &[&key]).status.success(),
            "another user sees {key}"
        );
    }
    let wrong = Credentials { password: bob.password, ..ada };
    assert!(!libmemcached(&product, "memccat", &wrong, &["file1"]).status.success());
}

#[test]
fn the_text_logins_and_their_refusals() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let accepted = [
        ("auth", format!("{} {}", ada.username, ada.password)),
        ("any.key", format!("{} {}", ada.username, ada.token)),
        ("auth", ada.token.clone()),
        (ada.username.as_str(), ada.password.clone()),
    ];
    for (n, (key, value)) in accepted.iter().enumerate() {
        let mut client = Text::connect(product.endpoint());
        assert_eq!(client.set(key, value.as_bytes()), "STORED", "form {n}");
        assert_eq!(client.set("form", n.to_string().as_bytes()), "STORED");
        assert_eq!(client.get("form"), Ok(Some(n.to_string().into_bytes())));
    }
    let failure = "CLIENT_ERROR authentication failure";
    let refused = [
        (format!("{} {}", ada.username, bob.password), failure),
        (format!("{} {}", ada.username, bob.token), failure),
        (format!(" {}", ada.password), failure),
        (format!("mg_000000000000 {}", ada.password), failure),
        (format!("{}x", ada.token), failure),
        ("mg_".to_owned(), failure),
        ("password".to_owned(), "CLIENT_ERROR bad authentication token format"),
    ];
    for (value, answer) in refused {
        assert_eq!(Text::connect(product.endpoint()).set("auth", value.as_bytes()), answer);
        product.keep_secret(&value);
    }
    let mut stranger = Text::connect(product.endpoint());
    assert!(stranger.ask(b"get form\r\n").starts_with("CLIENT_ERROR"), "nothing before a login");
}

#[test]
fn values_of_all_sizes_and_nobody_elses() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let mut client = Text::log_in(product.endpoint(), &ada);
    for size in SIZES {
        // Bytes that look like the protocol's own ends.
        let value: Vec<u8> = b"\r\nEND\r\n\0".iter().copied().cycle().take(size).collect();
        assert_eq!(client.set("same", &value), "STORED", "{size}");
        assert_eq!(client.get("same"), Ok(Some(value)), "{size}");
    }
    let mut other = Text::log_in(product.endpoint(), &bob);
    assert_eq!(other.get("same"), Ok(None));
}

#[test]
fn a_revoked_token_can_not_log_in() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let spare = product.credentials(&["token", "create", &ada.email]);
    assert_eq!(Text::log_in(product.endpoint(), &spare).set("a", b"1"), "STORED");
    product.json(&["token", "revoke", &spare.username]);
    let login = format!("{} {}", spare.username, spare.password);
    // The proxy follows the store: a second is what it has.
    wait_until(within(1), "the revoked token is refused", || {
        Text::connect(product.endpoint()).set("auth", login.as_bytes())
            == "CLIENT_ERROR authentication failure"
    });
    assert_eq!(Text::log_in(product.endpoint(), &ada).get("a"), Ok(Some(b"1".to_vec())));
}
