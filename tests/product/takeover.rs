//! An operator upgrades memgate while applications use it: nobody notices. What can't work changes nothing.

use std::fs::{self, File, Permissions};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use testkit::SetOnDrop;

use crate::harness::{Credentials, Installation, MEMGATE, Product, deadline_in, is_root, signal, wait_until};

/// For one reply, of a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of all clients between two upgrades at least.
const REQUESTS_MIN: u64 = 200;
/// Clients of one thread. A third speak TLS.
const CLIENTS_PER_THREAD: usize = 50;

/// What clients do until they are told to stop.
#[derive(Default)]
struct Load {
    requests: AtomicU64,
    logins: AtomicU64,
    is_stopped: AtomicBool,
}

trait Connection: Read + Write + Send {}

impl<S: Read + Write + Send> Connection for S {}

/// A client whose every reply is checked.
struct Client {
    stream: Box<dyn Connection>,
    key: String,
    turn: u64,
}

impl Client {
    fn log_in(
        product: &Product,
        credentials: &Credentials,
        tls: Option<&Arc<ClientConfig>>,
        key: String,
    ) -> Self {
        let tcp = TcpStream::connect(product.endpoint()).unwrap();
        tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream: Box<dyn Connection> = match tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = "localhost".try_into().unwrap();
                Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), tcp))
            }
        };
        let mut client = Self { stream, key, turn: 0 };
        let login = format!("{} {}", credentials.username, credentials.password);
        client.ask(&format!("set auth 0 0 {}\r\n{login}\r\n", login.len()), "STORED\r\n");
        client
    }

    fn ask(&mut self, request: &str, expected: &str) {
        self.stream.write_all(request.as_bytes()).unwrap();
        self.stream.flush().unwrap();
        let mut reply = vec![0; expected.len()];
        self.stream.read_exact(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), expected, "{}", self.key);
    }

    /// Writes a value of its own, and reads it back.
    fn use_cache(&mut self) {
        let (key, value) = (self.key.clone(), format!("{}:{}", self.key, self.turn));
        self.turn += 1;
        self.ask(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
        let found = format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
        self.ask(&format!("get {key}\r\n"), &found);
    }
}

/// A copy of memgate that is an installation's own.
struct Program(PathBuf);

impl Program {
    fn install(installation: &Installation) -> Self {
        let folder = installation.dir().join("bin");
        fs::create_dir(&folder).unwrap();
        let program = Self(folder.join("memgate"));
        program.replace_by(&fs::read(MEMGATE).unwrap());
        program
    }

    /// Puts another file in its place, as package managers do.
    fn replace_by(&self, bytes: &[u8]) {
        let new = self.0.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// The same program, as another file.
    fn replace(&self) {
        self.replace_by(&fs::read(MEMGATE).unwrap());
    }

    fn is_that_of(&self, pid: u32) -> bool {
        let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).unwrap();
        inode(&self.0) == inode(Path::new(&format!("/proc/{pid}/exe")))
    }
}

fn start(change: impl FnOnce(&mut Command)) -> (Product, Program) {
    let installation = Installation::new();
    let program = Program::install(&installation);
    let mut up = installation.command(&program.0, &["up"]);
    change(&mut up);
    let log = File::create(installation.log()).unwrap();
    let started = installation.up_with(up.stderr(log));
    (Product::running(installation, started), program)
}

fn upgrade(product: &Product) -> Output {
    product.run(&["upgrade", "--json"])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn metrics(product: &Product) -> String {
    let Ok(mut stream) = TcpStream::connect(product.role_health("proxy")) else { return String::new() };
    let mut reply = String::new();
    let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let _ = asked.and_then(|()| stream.read_to_string(&mut reply));
    reply
}

fn trusting(product: &Product) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let mut ca = BufReader::new(File::open(product.data().join("ca.pem")).unwrap());
    roots.add(CertificateDer::from_pem_reader(&mut ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Upgrades `count` times while `clients` use a cache, and others log in all the time. Prints how long requests took meanwhile.
fn upgrade_under_load(clients: usize, count: usize) {
    let (product, program) = start(|up| {
        up.env("MEMGATE_PROXY__HOLD", "10");
    });
    let ada = product.add_user("ada@example.org");
    product.json(&["plan", "update", "default", "--connections", "4000"]);
    let (tls, load, supervisor) = (trusting(&product), Load::default(), product.supervisor());
    let mut upgrades = Vec::new();
    let times = std::thread::scope(|scope| {
        let stopped = SetOnDrop(&load.is_stopped);
        let (product, ada, load, tls) = (&product, &ada, &load, &tls);
        let threads: Vec<_> = (0..clients.div_ceil(CLIENTS_PER_THREAD))
            .map(|thread| {
                let numbers = thread * CLIENTS_PER_THREAD..clients.min((thread + 1) * CLIENTS_PER_THREAD);
                let mut its: Vec<_> = numbers
                    .map(|n| Client::log_in(product, ada, (n % 3 == 0).then_some(tls), format!("key{n}")))
                    .collect();
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while !load.is_stopped.load(Ordering::Relaxed) {
                        for client in &mut its {
                            let begun = Instant::now();
                            client.use_cache();
                            times.push(begun.elapsed());
                            load.requests.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    times
                })
            })
            .collect();
        scope.spawn(|| {
            while !load.is_stopped.load(Ordering::Relaxed) {
                Client::log_in(product, ada, None, "new".to_owned()).use_cache();
                load.logins.fetch_add(1, Ordering::Relaxed);
            }
        });
        let progress = || (load.requests.load(Ordering::Relaxed), load.logins.load(Ordering::Relaxed));
        for _ in 0..count {
            let before = progress();
            program.replace();
            let output = upgrade(product);
            assert!(output.status.success(), "{}", text(&output.stderr));
            upgrades.push(text(&output.stdout).trim().to_owned());
            let go_on = || progress().0 > before.0 + REQUESTS_MIN && progress().1 > before.1;
            wait_until(deadline_in(60), "clients go on", go_on);
        }
        drop(stopped);
        let mut times: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        times.sort_unstable();
        times
    });
    let quantile = |part: usize| times[(times.len() - 1) * part / 1000];
    println!(
        "{clients} clients, {count} upgrades: {} requests, p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}; {} logins; {upgrades:?}",
        2 * times.len(),
        quantile(500),
        quantile(990),
        quantile(999),
        quantile(1000),
        load.logins.load(Ordering::Relaxed),
    );
    assert_eq!(product.supervisor(), supervisor);
    for (role, pid) in product.roles().into_iter().rev().take(3) {
        assert!(program.is_that_of(pid), "the {role} is the new program");
    }
    // No client is left: old proxies end by themselves.
    wait_until(deadline_in(30), "three roles are left", || product.roles().len() == 3);
    assert_eq!(product.json(&["status"])["ready"], true);
}

// F-38.
#[test]
fn applications_notice_nothing_of_upgrades() {
    upgrade_under_load(60, 3);
}

/// `./deploy/measure upgrades`
#[test]
#[ignore = "takes minutes: ten upgrades with 2,000 clients"]
fn two_thousand_clients_notice_nothing_of_ten_upgrades() {
    upgrade_under_load(2000, 10);
}

// F-38, R-58.
#[test]
fn an_upgrade_that_can_not_work_changes_nothing() {
    let (product, program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let mut client = Client::log_in(&product, &ada, None, "key".to_owned());
    let before = product.roles();
    let mut refused = |reason: &str| {
        let output = upgrade(&product);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
        client.use_cache();
        assert_eq!(product.roles(), before, "{reason}");
    };
    // A mistake in the settings.
    let settings = product.data().join("memgate.toml");
    fs::write(&settings, "[proxy]\nconections = 77\n").unwrap();
    refused("unknown setting proxy.conections");
    fs::write(&settings, "[webui]\nplan = \"nosuch\"\n").unwrap();
    refused("there is no such plan");
    fs::remove_file(&settings).unwrap();
    // A program that isn't one, or that others may change.
    program.replace_by(b"not a program");
    refused("can't take over");
    program.replace();
    fs::set_permissions(&program.0, Permissions::from_mode(0o777)).unwrap();
    refused("others may change it");
    fs::remove_file(&program.0).unwrap();
    refused("can't find the new program");
    program.replace();
    // A role that runs alone and a user without rights can't be asked.
    if is_root() {
        let mut command = product.memgate(&["upgrade"]);
        let output = std::os::unix::process::CommandExt::uid(&mut command, 65534).output().unwrap();
        assert!(!output.status.success(), "{}", text(&output.stdout));
    }
    assert!(upgrade(&product).status.success());
    client.use_cache();
    assert!(program.is_that_of(product.supervisor()));
}

// F-38: the program before goes on if the new one gives up after the check.
#[test]
fn the_program_before_goes_on_if_the_new_one_gives_up() {
    let (product, program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let mut client = Client::log_in(&product, &ada, None, "key".to_owned());
    let before = product.roles();
    // Nor could the program before work with the settings that the new one finds.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--check*) echo 9.9.9;; *) export MEMGATE_STORE__NOSUCH=1; exec {MEMGATE} \"$@\";; esac\n"
    );
    program.replace_by(script.as_bytes());
    let output = upgrade(&product);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    client.use_cache();
    assert_eq!(product.roles(), before);
    signal(product.role("webui").unwrap(), "TERM");
    let is_back = || product.role("webui").is_some_and(|pid| before.iter().all(|(_, old)| *old != pid));
    wait_until(deadline_in(20), "the web UI is started again", is_back);
}

// F-24, F-38.
#[test]
fn sighup_hands_over_to_changed_settings() {
    let (product, _program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let mut client = Client::log_in(&product, &ada, None, "key".to_owned());
    let before = product.roles();
    fs::write(product.data().join("memgate.toml"), "[proxy]\nconnections = 777\n").unwrap();
    signal(product.supervisor(), "HUP");
    wait_until(deadline_in(60), "the settings are in use", || {
        metrics(&product).contains("memgate_proxy_connections_limit 777")
    });
    client.use_cache();
    wait_until(deadline_in(60), "all roles are replaced", || {
        let now = product.roles();
        now.len() == 3 && now.iter().all(|role| !before.contains(role))
    });
    client.use_cache();
}
