//! Real client libraries against real containers: values from 1 byte to 1 MB, isolation, and revoked tokens.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::harness::{Credentials, Product, deadline_in, wait_until};
use crate::text_client::TextClient;

/// Value sizes in bytes: memcached's 1 MB item limit includes the item's header.
const SIZES: [usize; 6] = [1, 100, 1024, 16 * 1024, 512 * 1024, 1_000_000];

/// Scripts in tests/clients, one for each client library.
const SCRIPTS: [&str; 6] = ["binary.py", "text.py", "classic.py", "meta.py", "sasl.js", "binary.php"];

/// Path of a tool that ./deploy/test installs: from a variable, or the default.
pub(crate) fn tool(variable: &str, default: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let tool = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(default));
    assert!(tool.exists(), "{} is missing: run ./deploy/test, which installs it", tool.display());
    tool
}

/// A command that runs one scenario of a script, which fails by itself on a wrong result.
fn command(product: &Product, script: &str, scenario: &str, credentials: &Credentials) -> Command {
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
        .args([scenario, &product.endpoint().to_string(), &credentials.username, &credentials.password])
        .args(SIZES.map(|size| size.to_string()));
    command
}

fn run(product: &Product, script: &str, scenario: &str, credentials: &Credentials) -> Output {
    command(product, script, scenario, credentials).output().unwrap()
}

/// The same, over TLS.
fn run_tls(product: &Product, script: &str, scenario: &str, credentials: &Credentials) -> Output {
    command(product, script, scenario, credentials).env("CA", product.data().join("ca.pem")).output().unwrap()
}

fn assert_success(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

// S-1, S-7.
#[test]
fn client_libraries_support_all_operations() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for client in SCRIPTS {
        assert_success(&run(&product, client, "use", &ada), client);
        assert_success(&run(&product, client, "miss", &bob), client);
    }
    let spare = product.credentials(&["token", "create", &ada.email, "--name", "spare"]);
    product.json(&["token", "revoke", &spare.username]);
    let login = format!("{} {}", spare.username, spare.password);
    wait_until(deadline_in(1), "the revoked token is denied", || {
        TextClient::connect(product.endpoint()).set("auth", login.as_bytes()) != "STORED"
    });
    for client in SCRIPTS {
        assert_success(&run(&product, client, "denied", &spare), client);
        assert_success(&run(&product, client, "use", &ada), client);
    }
}

#[test]
fn client_libraries_work_over_tls() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let wrong = Credentials { password: bob.password.clone(), ..ada.clone() };
    for client in ["binary.py", "text.py"] {
        assert_success(&run_tls(&product, client, "use", &ada), client);
        assert_success(&run_tls(&product, client, "miss", &bob), client);
        assert_success(&run_tls(&product, client, "denied", &wrong), client);
    }
}

/// pymemcache has no login and uses a client certificate instead.
#[test]
fn client_library_without_login_uses_a_certificate() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let dir = product.dir().join("certificates");
    let file = |name: String| dir.join(name);
    let out = ["--certificate-out", dir.to_str().unwrap()];
    product.json(&[&["token", "certify", &ada.username], &out[..]].concat());
    // Bob generates his own key and sends only a request.
    let (key, request) = (file("bob.key".into()), file("bob.csr".into()));
    let bobs = rcgen::KeyPair::generate().unwrap();
    fs::write(&key, bobs.serialize_pem()).unwrap();
    let params = rcgen::CertificateParams::default();
    fs::write(&request, params.serialize_request(&bobs).unwrap().pem().unwrap()).unwrap();
    let certify = ["token", "certify", &bob.username, "--csr", request.to_str().unwrap()];
    product.json(&[&certify[..], &out].concat());
    let classic = |scenario, credentials: &Credentials, key: &PathBuf| {
        let mut command = command(&product, "classic.py", scenario, credentials);
        command.env("CA", product.data().join("ca.pem")).env("KEY", key);
        command.env("CERT", file(format!("{}.pem", credentials.username))).output().unwrap()
    };
    let adas = file(format!("{}.key", ada.username));
    assert_success(&classic("use", &ada, &adas), "with a key generated by memgate");
    assert_success(&classic("miss", &bob, &key), "with the client's own key");
    product.json(&["token", "revoke", &ada.username]);
    wait_until(deadline_in(5), "the revoked token's certificate is denied", || {
        classic("denied", &ada, &adas).status.success()
    });
    assert_success(&classic("use", &bob, &key), "the other user's certificate");
}

/// Runs a libmemcached tool with SASL.
fn libmemcached(product: &Product, program: &str, credentials: &Credentials, arguments: &[&str]) -> Output {
    Command::new(program)
        .arg(format!("--servers={}", product.endpoint()))
        .args([
            format!("--username={}", credentials.username),
            format!("--password={}", credentials.password),
        ])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn libmemcached_reads_what_it_stored() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for size in SIZES {
        let key = format!("file{size}");
        let path = product.dir().join(&key);
        let value: Vec<u8> = (0..size).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
        fs::write(&path, &value).unwrap();
        assert_success(
            &libmemcached(&product, "memccp", &ada, &["--binary", path.to_str().unwrap()]),
            "memccp",
        );
        let read = libmemcached(&product, "memccat", &ada, &["--binary", &key]);
        assert_success(&read, "memccat");
        assert_eq!(read.stdout.strip_suffix(b"\n").unwrap_or(&read.stdout), value, "{size} bytes");
        let others = libmemcached(&product, "memccat", &bob, &["--binary", &key]);
        assert!(!others.status.success(), "another user reads {key}");
    }
    let wrong = Credentials { password: bob.password, ..ada };
    assert!(!libmemcached(&product, "memccat", &wrong, &["--binary", "file1"]).status.success());
}

#[test]
fn libmemcached_tools_support_all_operations() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let file = product.dir().join("file");
    fs::write(&file, "value").unwrap();
    let file = file.to_str().unwrap();
    for (line, succeeds, expected) in [
        ("memcping", true, ""),
        ("memccp --binary --set --flags=7 --expire=1000", true, ""),
        ("memccp --binary --add", false, "DATA EXISTS"),
        ("memccp --binary --replace --flags=8", true, ""),
        ("memccat --binary --flags file", true, "8\nvalue"),
        ("memcexist --binary file", true, ""),
        ("memcexist --binary nothing", false, ""),
        // The lookup must not create the key.
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
        // memcdump doesn't support SASL.
        ("memcdump", false, "NOT SUPPORTED"),
    ] {
        let mut words: Vec<&str> = line.split(' ').collect();
        let program = words.remove(0);
        if program == "memccp" {
            words.push(file);
        }
        let output = libmemcached(&product, program, &ada, &words);
        let printed = [&output.stdout[..], &output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(output.status.success() == succeeds && printed.contains(expected), "{line}: {printed}");
    }
}

// S-12.
#[test]
fn text_logins_and_their_denials() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let accepted = [
        ("auth", format!("{} {}", ada.username, ada.password)),
        ("any.key", format!("{} {}", ada.username, ada.token)),
        ("auth", ada.token.clone()),
        (ada.username.as_str(), ada.password.clone()),
    ];
    for (n, (key, value)) in accepted.iter().enumerate() {
        let mut client = TextClient::connect(product.endpoint());
        assert_eq!(client.set(key, value.as_bytes()), "STORED", "form {n}");
        assert_eq!(client.set("form", n.to_string().as_bytes()), "STORED");
        assert_eq!(client.get("form"), Ok(Some(n.to_string().into_bytes())));
    }
    let failure = "CLIENT_ERROR authentication failure";
    let denied = [
        (format!("{} {}", ada.username, bob.password), failure),
        (format!("{} {}", ada.username, bob.token), failure),
        (format!(" {}", ada.password), failure),
        (format!("mg_000000000000 {}", ada.password), failure),
        (format!("{}x", ada.token), failure),
        ("mg_".to_owned(), failure),
        ("secret-value".to_owned(), "CLIENT_ERROR bad authentication token format"),
    ];
    for (value, reply) in denied {
        assert_eq!(TextClient::connect(product.endpoint()).set("auth", value.as_bytes()), reply);
    }
    let mut unauthenticated = TextClient::connect(product.endpoint());
    assert!(
        unauthenticated.request(b"get form\r\n").starts_with("CLIENT_ERROR"),
        "requests before a login are denied"
    );
}

//
#[test]
fn values_of_all_sizes_are_isolated_between_users() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    for size in SIZES {
        // Bytes that look like the end of a reply.
        let value: Vec<u8> = b"\r\nEND\r\n\0".iter().copied().cycle().take(size).collect();
        assert_eq!(client.set("secret-key", &value), "STORED", "{size}");
        assert_eq!(client.get("secret-key"), Ok(Some(value)), "{size}");
    }
    let mut other = TextClient::log_in(product.endpoint(), &bob);
    assert_eq!(other.get("secret-key"), Ok(None));
}

#[test]
fn revoked_token_cannot_log_in() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let spare = product.credentials(&["token", "create", &ada.email]);
    assert_eq!(TextClient::log_in(product.endpoint(), &spare).set("a", b"1"), "STORED");
    product.json(&["token", "revoke", &spare.username]);
    let login = format!("{} {}", spare.username, spare.password);
    // The proxy must apply a revocation within a second.
    wait_until(deadline_in(1), "the revoked token is denied", || {
        TextClient::connect(product.endpoint()).set("auth", login.as_bytes())
            == "CLIENT_ERROR authentication failure"
    });
    assert_eq!(TextClient::log_in(product.endpoint(), &ada).get("a"), Ok(Some(b"1".to_vec())));
}
