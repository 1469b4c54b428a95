//! Proxies that run alone behind HAProxy are upgraded one after the other, while one is killed and one is added.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use testkit::Postgres;

use crate::checking_clients::{Load, Target};
use crate::documents::{Background, read};
use crate::harness::{Credentials, Installation, Product, deadline_in, is_root, wait_until};
use crate::installed_program::InstalledProgram;
use crate::lone_proxy::{LoneProxy, Place, export_keys};

/// Proxies at first, and with the one that is added.
const PROXIES: usize = 3;
const SERVERS: usize = PROXIES + 1;
/// Where the clients are whose address is checked.
const SOURCE: &str = "127.0.0.5";

/// Several proxies behind a load balancer. Dropped in this order.
struct Balanced {
    _haproxy: Background,
    haproxy_log: PathBuf,
    endpoint: SocketAddr,
    /// Those that run, each with its number.
    proxies: Vec<(usize, LoneProxy)>,
    places: Vec<Place>,
    program: InstalledProgram,
    keys: PathBuf,
    product: Product,
    _postgres: Postgres,
}

impl Balanced {
    fn start() -> Self {
        let postgres = Postgres::start();
        let installation = Installation::with_postgres(postgres.url());
        installation.json(&["migrate", "--roles"]);
        let log = File::create(installation.log()).unwrap();
        let started = installation.up_with(installation.memgate(&["up"]).stderr(log));
        let product = Product::running(installation, started);
        let (keys, program) = (export_keys(&product), InstalledProgram::install(&product));
        let places: Vec<_> = (0..SERVERS).map(Place::new).collect();
        let (haproxy, haproxy_log, endpoint) = start_haproxy(&product, &places);
        let mut balanced = Self {
            _haproxy: haproxy,
            haproxy_log,
            endpoint,
            proxies: Vec::new(),
            places,
            program,
            keys,
            product,
            _postgres: postgres,
        };
        (0..PROXIES).for_each(|number| balanced.add(number));
        balanced.wait_for_log("Server proxies/proxy3 is DOWN", 1);
        balanced
    }

    /// Starts a proxy, and waits until clients get to it.
    fn add(&mut self, number: usize) {
        let Self { product, program, keys, places, .. } = self;
        let proxy = LoneProxy::with_keys(product, program.path(), keys, places[number], |command| {
            command.env("MEMGATE_PROXY__PROXY_PROTOCOL_FROM", "[\"127.0.0.1/32\"]");
            command.env("MEMGATE_PROXY__HOLD", "10");
        });
        proxy.wait_until_ready();
        self.proxies.push((number, proxy));
    }

    fn wait_for_log(&self, text: &str, count: usize) {
        let has = || fs::read_to_string(&self.haproxy_log).unwrap().matches(text).count() >= count;
        wait_until(deadline_in(30), text, has);
    }

    /// Replaces the program of one of the proxies.
    fn upgrade(&self, turn: usize) {
        self.program.replace();
        let (_, proxy) = &self.proxies[turn % self.proxies.len()];
        let pid = proxy.id();
        proxy.upgrade(" upgraded ");
        assert!(self.program.is_that_of(pid));
    }
}

/// HAProxy with the example's text, for these proxies.
fn start_haproxy(product: &Product, places: &[Place]) -> (Background, PathBuf, SocketAddr) {
    let endpoint = testkit::free_port();
    let text = read("deploy/examples/haproxy.cfg")
        // Not more files than a process may open here.
        .replace("maxconn 100000", "maxconn 4000")
        .replace("bind :11211", &format!("bind {endpoint}"));
    let (mut config, servers): (Vec<String>, Vec<String>) =
        text.lines().map(str::to_owned).partition(|line| !line.trim().starts_with("server proxy"));
    assert_eq!(servers.len(), 2);
    for Place { number, endpoint, health } in places {
        config.push(format!("    server proxy{number} {endpoint} port {}", health.port()));
    }
    let (file, log_path) = (product.dir().join("haproxy.cfg"), product.dir().join("haproxy.log"));
    fs::write(&file, config.join("\n") + "\n").unwrap();
    let log = File::create(&log_path).unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let haproxy = Background(haproxy.spawn().unwrap());
    wait_until(deadline_in(20), "the load balancer listens", || TcpStream::connect(endpoint).is_ok());
    (haproxy, log_path, endpoint)
}

/// How many connections a program of this machine has at an address that it listens on.
fn connections_at(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", address.port());
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == ESTABLISHED
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).filter(is_one).count()
}

/// Connections whose client's address is told by the load balancer keep it when they move: where they are listed, when a request
/// is denied, and when the token's networks change.
fn check_addresses(balanced: &Balanced, ada: &Credentials) {
    let Balanced { product, endpoint, proxies, .. } = balanced;
    let token = product.credentials(&[
        "token",
        "create",
        &ada.email,
        "--allow-from",
        &format!("{SOURCE}/32"),
        "--prefix",
        "own:",
    ]);
    let mut clients: Vec<_> = (0..2 * PROXIES).map(|_| AddressedClient::log_in(*endpoint, &token)).collect();
    (0..proxies.len()).for_each(|turn| balanced.upgrade(turn));
    for client in &mut clients {
        assert_eq!(client.ask("set own:key 0 0 1\r\n1\r\n"), "STORED\r\n");
        let denied = client.ask("set other 0 0 1\r\n1\r\n");
        assert!(denied.contains("ERROR"), "{denied}");
    }
    let live = product.json(&["connection", "list", &ada.email]);
    let sources: Vec<_> =
        live["connections"].as_array().unwrap().iter().map(|it| it["source"].clone()).collect();
    assert_eq!(sources, vec![SOURCE; clients.len()], "{live}");
    let denials = || product.json(&["token", "show", &token.username])["denials"].clone();
    wait_until(deadline_in(20), "denials are recorded", || {
        let denials = denials();
        let counts = denials.as_array().unwrap().iter().filter_map(|it| it["count"].as_u64());
        counts.sum::<u64>() >= clients.len() as u64
    });
    let denials = denials();
    assert!(denials.as_array().unwrap().iter().all(|it| it["source"] == SOURCE), "{denials}");
    product.json(&["token", "update", &token.username, "--allow-from", "127.0.0.6/32"]);
    for mut client in clients {
        let is_refused = || !client.try_ask("get own:key\r\n").is_ok_and(|reply| reply.starts_with("VALUE"));
        wait_until(deadline_in(20), "a connection from another address is refused", is_refused);
    }
}

//
/// A proxy of an unprivileged user runs no program that others than root and that user may change, and goes on without its key file.
fn check_refusals(balanced: &Balanced) {
    let Balanced { proxies, program, .. } = balanced;
    let (_, proxy) = &proxies[0];
    let newest = || proxy.children().last().copied();
    let before = newest();
    let refused = |reason: &str| {
        proxy.upgrade(" no upgrade: ");
        let log = proxy.read_log();
        let line = log.lines().rfind(|line| line.contains(" no upgrade: ")).unwrap();
        assert!(line.contains(reason), "{reason}: {line}");
        assert_eq!(newest(), before);
    };
    program.replace();
    chown(program.path(), Some(65_534), None).unwrap();
    refused("others may change it");
    program.replace();
    let folder = program.path().parent().unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o775)).unwrap();
    refused("others may change it");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let (keys, aside) = (proxy.key_file(), proxy.key_file().with_extension("aside"));
    fs::rename(&keys, &aside).unwrap();
    refused("there is no key file");
    fs::rename(&aside, &keys).unwrap();
}

/// A client at [`SOURCE`].
struct AddressedClient(BufReader<TcpStream>);

impl AddressedClient {
    fn log_in(endpoint: SocketAddr, token: &Credentials) -> Self {
        let stream = testkit::connect_from(SOURCE.parse().unwrap(), endpoint).unwrap();
        let mut client = Self(BufReader::new(stream));
        let login = format!("{} {}", token.username, token.password);
        assert_eq!(client.ask(&format!("set auth 0 0 {}\r\n{login}\r\n", login.len())), "STORED\r\n");
        client
    }

    fn ask(&mut self, request: &str) -> String {
        self.try_ask(request).unwrap()
    }

    /// The first line of the reply; the rest is read up to its end.
    fn try_ask(&mut self, request: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let mut rest = line.clone();
        while line.starts_with("VALUE") && rest != "END\r\n" && !rest.is_empty() {
            rest.clear();
            self.0.read_line(&mut rest)?;
        }
        Ok(line)
    }
}

/// Upgrades `count` times, in turn, while `clients` use a cache and others log in all the time.
fn upgrade_behind_a_load_balancer(clients: usize, count: usize) {
    if !is_root() {
        return;
    }
    testkit::raise_file_limit();
    let mut balanced = Balanced::start();
    let ada = balanced.product.add_user("ada@example.org");
    balanced.product.json(&["plan", "update", "default", "--connections", "4000"]);
    check_addresses(&balanced, &ada);
    check_refusals(&balanced);
    let target = Target::new(&balanced.product, balanced.endpoint, &ada);
    let load = Load::new(&target);
    let times = load.run(clients, || {
        for turn in 0..count {
            if turn == count / 2 {
                kill_one(&mut balanced, &load, clients);
                balanced.add(PROXIES);
                balanced.wait_for_log("Server proxies/proxy3 is UP", 1);
                wait_until(deadline_in(30), "the new proxy is used", || {
                    connections_at(balanced.places[PROXIES].endpoint) > 0
                });
            }
            balanced.upgrade(turn);
            load.wait_for_progress();
        }
    });
    println!("{clients} clients of {PROXIES} proxies, {count} upgrades: {}", load.summary(&times));
    for (_, proxy) in &balanced.proxies {
        wait_until(deadline_in(60), "no replaced proxy is left", || proxy.children().len() == 1);
    }
}

/// Kills a proxy: those who are connected to it lose their connections, and nobody else.
fn kill_one(balanced: &mut Balanced, load: &Load<'_>, clients: usize) {
    let logins = load.without_logins();
    let connections = |balanced: &Balanced| -> Vec<usize> {
        balanced.proxies.iter().map(|(number, _)| connections_at(balanced.places[*number].endpoint)).collect()
    };
    wait_until(deadline_in(30), "only the checked clients are connected", || {
        connections(balanced).iter().sum::<usize>() == clients
    });
    let expected = connections(balanced)[0] as u64;
    assert!(expected > 0 && expected < clients as u64, "{expected}");
    let (number, mut killed) = balanced.proxies.remove(0);
    load.allow_loss(true);
    killed.end("KILL");
    wait_until(deadline_in(30), "its connections are lost", || load.lost() >= expected);
    balanced.wait_for_log(&format!("Server proxies/proxy{number} is DOWN"), 1);
    load.allow_loss(false);
    assert_eq!(load.lost(), expected);
    drop(logins);
}

// F-38.
#[test]
fn proxies_behind_a_load_balancer_are_upgraded_in_turn() {
    upgrade_behind_a_load_balancer(60, 3);
}

/// `./deploy/measure upgrades`
#[test]
#[ignore = "takes minutes: ten upgrades with 2,000 clients"]
fn two_thousand_clients_of_three_proxies_notice_nothing_of_ten_upgrades() {
    upgrade_behind_a_load_balancer(2000, 10);
}
