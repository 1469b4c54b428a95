//! Real clients against real containers: values from 1 byte to 1 MB, nobody else's, and none after revocation.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Credentials, Product, wait_until, within};
use crate::text::Text;

/// Bytes of values: 1 MB in memcached's sense leaves room for the item's own head.
const SIZES: [usize; 6] = [1, 100, 1024, 16 * 1024, 512 * 1024, 1_000_000];

/// Scripts of tests/clients, each for one client library.
const SCRIPTS: [&str; 6] = ["binary.py", "text.py", "classic.py", "meta.py", "sasl.js", "binary.php"];

/// What ./deploy/test has installed: named by a variable, or where it is by default.
fn tool(variable: &str, default: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let tool = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(default));
    assert!(tool.exists(), "{} is missing: run ./deploy/test, which installs it", tool.display());
    tool
}

/// A script with where and who; it fails by itself at what it doesn't like.
fn command(product: &Product, script: &str, what: &str, who: &Credentials) -> Command {
    let mut command = if script.ends_with(".js") {
        let mut node = Command::new("node");
        node.env("NODE_PATH", tool("MEMGATE_TEST_NODE_MODULES", "target/tools/node/node_modules"));
        node
    } else if script.ends_with(".php") {
        Command::new("php")
    } else {
        Command::new(tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python"))
    };
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script))
        .args([what, &product.endpoint().to_string(), &who.username, &who.password])
        .args(SIZES.map(|size| size.to_string()));
    command
}

fn script(product: &Product, script: &str, what: &str, who: &Credentials) -> Output {
    command(product, script, what, who).output().unwrap()
}

/// The same, over TLS.
fn secured(product: &Product, script: &str, what: &str, who: &Credentials) -> Output {
    command(product, script, what, who).env("CA", product.data().join("ca.pem")).output().unwrap()
}

fn passes(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn client_libraries_do_all_they_can() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for client in SCRIPTS {
        passes(&script(&product, client, "use", &ada), client);
        passes(&script(&product, client, "find-nothing", &bob), client);
    }
    let spare = product.credentials(&["token", "create", &ada.email, "--name", "spare"]);
    product.json(&["token", "revoke", &spare.username]);
    let login = format!("{} {}", spare.username, spare.password);
    wait_until(within(1), "the revoked token is refused", || {
        Text::connect(product.endpoint()).set("auth", login.as_bytes()) != "STORED"
    });
    for client in SCRIPTS {
        passes(&script(&product, client, "be-refused", &spare), client);
        passes(&script(&product, client, "use", &ada), client);
    }
}

#[test]
fn client_libraries_that_can_speak_tls_do() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let wrong = Credentials { password: bob.password.clone(), ..ada.clone() };
    for client in ["binary.py", "text.py"] {
        passes(&secured(&product, client, "use", &ada), client);
        passes(&secured(&product, client, "find-nothing", &bob), client);
        passes(&secured(&product, client, "be-refused", &wrong), client);
    }
}

/// pymemcache can't log in: it shows a certificate.
#[test]
fn client_libraries_that_have_no_login_show_a_certificate() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let folder = product.folder().join("certificates");
    let file = |name: String| folder.join(name);
    let to = ["--certificate-out", folder.to_str().unwrap()];
    product.json(&[&["token", "certify", &ada.username], &to[..]].concat());
    // Bob's key never leaves him.
    let (key, request) = (file("bob.key".into()), file("bob.csr".into()));
    let bobs = rcgen::KeyPair::generate().unwrap();
    fs::write(&key, bobs.serialize_pem()).unwrap();
    let params = rcgen::CertificateParams::default();
    fs::write(&request, params.serialize_request(&bobs).unwrap().pem().unwrap()).unwrap();
    let certify = ["token", "certify", &bob.username, "--csr", request.to_str().unwrap()];
    product.json(&[&certify[..], &to].concat());
    let classic = |what, who: &Credentials, key: &PathBuf| {
        let mut command = command(&product, "classic.py", what, who);
        command.env("CA", product.data().join("ca.pem")).env("KEY", key);
        command.env("CERT", file(format!("{}.pem", who.username))).output().unwrap()
    };
    let adas = file(format!("{}.key", ada.username));
    passes(&classic("use", &ada, &adas), "with a key made by memgate");
    passes(&classic("find-nothing", &bob, &key), "with a key of its own");
    product.json(&["token", "revoke", &ada.username]);
    wait_until(within(5), "the revoked token's certificate is refused", || {
        classic("be-refused", &ada, &adas).status.success()
    });
    passes(&classic("use", &bob, &key), "the other");
}

/// One of libmemcached's tools, with SASL.
fn libmemcached(product: &Product, program: &str, who: &Credentials, arguments: &[&str]) -> Output {
    Command::new(program)
        .arg(format!("--servers={}", product.endpoint()))
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
        passes(&libmemcached(&product, "memccp", &ada, &["--binary", path.to_str().unwrap()]), "memccp");
        let read = libmemcached(&product, "memccat", &ada, &["--binary", &key]);
        passes(&read, "memccat");
        assert_eq!(read.stdout.strip_suffix(b"\n").unwrap_or(&read.stdout), value, "{size} bytes");
        let others = libmemcached(&product, "memccat", &bob, &["--binary", &key]);
        assert!(!others.status.success(), "another user sees {key}");
    }
    let wrong = Credentials { password: bob.password, ..ada };
    assert!(!libmemcached(&product, "memccat", &wrong, &["--binary", "file1"]).status.success());
}

#[test]
fn libmemcached_tools_do_all_they_can() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let file = product.folder().join("file");
    fs::write(&file, "value").unwrap();
    let file = file.to_str().unwrap();
    for (line, succeeds, says) in [
        ("memcping", true, ""),
        ("memccp --binary --set --flags=7 --expire=1000", true, ""),
        ("memccp --binary --add", false, "DATA EXISTS"),
        ("memccp --binary --replace --flags=8", true, ""),
        ("memccat --binary --flags file", true, "8\nvalue"),
        ("memcexist --binary file", true, ""),
        ("memcexist --binary nothing", false, ""),
        // Looking for it doesn't make it.
        ("memcexist --binary nothing", false, ""),
        ("memctouch --binary --expire=1000 file", true, ""),
        ("memctouch --binary --expire=1000 nothing", false, ""),
        ("memcstat --binary", true, "curr_items: 1"),
        ("memcrm --binary file", true, ""),
        ("memcrm --binary file", false, ""),
        ("memccat --binary file", false, ""),
        ("memccp --binary --buffer --non-blocking", true, ""),
        ("memccat --binary file", true, "value"),
        ("memcflush --binary --expire=1000", true, ""),
        ("memccat --binary file", true, "value"),
        ("memcflush --binary", true, ""),
        ("memccat --binary file", false, ""),
        ("memccp --binary --replace", false, "NOT FOUND"),
        // It can't do that with a login.
        ("memcdump", false, "NOT SUPPORTED"),
    ] {
        let mut words: Vec<&str> = line.split(' ').collect();
        let program = words.remove(0);
        if program == "memccp" {
            words.push(file);
        }
        let output = libmemcached(&product, program, &ada, &words);
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() == succeeds && said.contains(says), "{line}: {said}");
    }
}

#[test]
fn the_text_logins_and_their_denials() {
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
        ("secret-value".to_owned(), "CLIENT_ERROR bad authentication token format"),
    ];
    for (value, answer) in refused {
        assert_eq!(Text::connect(product.endpoint()).set("auth", value.as_bytes()), answer);
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
        assert_eq!(client.set("secret-key", &value), "STORED", "{size}");
        assert_eq!(client.get("secret-key"), Ok(Some(value)), "{size}");
    }
    let mut other = Text::log_in(product.endpoint(), &bob);
    assert_eq!(other.get("secret-key"), Ok(None));
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
