//! R-2: in a container's network nothing answers but the container itself.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Installation, inspect, output};

/// A query for the A record of `example.org`, as `printf` writes it.
const QUERY: &str = r"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";

/// The network namespace of one container, entered with the host's tools.
struct Namespace {
    pid: String,
}

impl Namespace {
    fn of(container: &str) -> Self {
        Self { pid: inspect("container", container)["State"]["Pid"].to_string() }
    }

    /// Whether a TCP connection opens within a second.
    fn reaches(&self, host: &str, port: u16) -> bool {
        self.bash(&format!("exec 3<>/dev/tcp/{host}/{port}"), 1).0
    }

    /// The number of answers in a DNS server's reply; `None` without a reply.
    fn resolves(&self, server: &str) -> Option<u16> {
        let script =
            format!("exec 3<>/dev/udp/{server}/53; printf '{QUERY}' >&3; head -c 8 <&3 | od -An -tu1");
        let (_, reply) = self.bash(&script, 4);
        let bytes: Vec<u16> = reply.split_whitespace().filter_map(|byte| byte.parse().ok()).collect();
        Some(bytes.get(6)? * 256 + bytes.get(7)?)
    }

    fn bash(&self, script: &str, seconds: u32) -> (bool, String) {
        let net = format!("--net=/proc/{}/ns/net", self.pid);
        let limit = seconds.to_string();
        let arguments = [net.as_str(), "timeout", &limit, "bash", "-c", script];
        let output = Command::new("nsenter").args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// All addresses of this host except loopback.
fn host_addresses() -> Vec<String> {
    let listed = output("ip", &["-o", "address", "show", "scope", "global"]);
    let field = |line: &str| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned());
    listed.lines().filter_map(field).filter(|address| !address.contains(':')).collect()
}

// R-2.
#[tokio::test]
async fn a_container_reaches_nothing() {
    let installation = Installation::start().await;
    let other = Installation::start().await;
    let (a, a_route) = installation.running_instance().await;
    let (_b, b_route) = installation.running_instance().await;
    let (_c, c_route) = other.running_instance().await;
    let namespace = Namespace::of(&installation.container(&a));
    let (a_address, b_address) = (a_route.address.clone().unwrap(), b_route.address.unwrap());
    assert!(namespace.reaches(&a_address, 11211), "the container itself, so the check works");
    assert!(installation.request(&a, &a_route, "version").is_some(), "the host reaches the container");

    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let network = inspect("container", &installation.container(&a))["HostConfig"]["NetworkMode"].clone();
    let network = inspect("network", network.as_str().unwrap());
    let gateway = network["IPAM"]["Config"][0]["Gateway"].as_str().unwrap().to_owned();
    let hosts = host_addresses();
    assert!(hosts.contains(&gateway), "{hosts:?} hold the bridge's {gateway}");
    for host in &hosts {
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        let opened = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
        // A network of another test may have been removed meanwhile.
        assert!(opened.is_ok() || !host_addresses().contains(host), "the port is open at {host}: {opened:?}");
    }
    let mut closed: Vec<(String, u16)> = hosts.into_iter().map(|host| (host, port)).collect();
    closed.extend([
        (b_address, 11211),
        (c_route.address.unwrap(), 11211),
        ("169.254.169.254".into(), 80),
        ("1.1.1.1".into(), 443),
    ]);
    std::thread::scope(|scope| {
        for (host, port) in &closed {
            let namespace = &namespace;
            scope.spawn(move || assert!(!namespace.reaches(host, *port), "{host}:{port} answers"));
        }
        for server in [gateway.as_str(), "127.0.0.11", "8.8.8.8"] {
            let namespace = &namespace;
            scope.spawn(move || {
                assert!(namespace.resolves(server).is_none_or(|answers| answers == 0), "{server} resolves");
            });
        }
    });
    let bridge = network["Options"]["com.docker.network.bridge.name"].as_str().unwrap();
    check_link_local(&namespace, bridge);
}

/// IPv6 link-local to the host's end of the bridge, which iptables doesn't filter.
fn check_link_local(namespace: &Namespace, bridge: &str) {
    let listed = output("ip", &["-o", "-6", "address", "show", "dev", bridge, "scope", "link"]);
    let Some(address) = listed.split_whitespace().nth(3).and_then(|a| a.split('/').next()) else { return };
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    assert!(
        !namespace.reaches(&format!("{address}%eth0"), listener.local_addr().unwrap().port()),
        "{address}"
    );
}

/// Whether a TCP connection of this host's user opens within a second.
fn user_reaches(user: &str, address: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}/11211");
    Command::new("setpriv")
        .args(["--reuid", user, "--clear-groups", "timeout", "1", "bash", "-c", &script])
        .output()
        .unwrap()
        .status
        .success()
}

// R-29.
#[tokio::test]
async fn only_the_proxy_and_root_reach_a_container() {
    let mut installation = Installation::new().await;
    installation.config.proxy_user = "daemon".into();
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = installation.running_instance().await;
    let address = route.address.clone().unwrap();
    for (user, reaches) in [("root", true), ("daemon", true), ("nobody", false), ("bin", false)] {
        assert_eq!(user_reaches(user, &address), reaches, "{user}");
    }
    // Root's group doesn't help, nor does another protocol.
    let datagram = format!("echo version >/dev/udp/{address}/11211");
    let sent = |user: &str| {
        let arguments = ["--reuid", user, "--regid", "0", "--clear-groups", "bash", "-c", &datagram];
        Command::new("setpriv").args(arguments).output().unwrap().status.success()
    };
    assert!(sent("daemon") && !sent("nobody"));
    assert!(installation.request(&instance, &route, "version").is_some());
}

// R-29.
#[tokio::test]
async fn an_unknown_proxy_user_is_an_error() {
    let mut installation = Installation::new().await;
    installation.config.proxy_user = "no-such-user".into();
    let error = installation.spawn(installation.config.clone()).error().to_string();
    assert!(error.contains("provisioner.proxy_user") && error.contains("no-such-user"), "{error}");
}

/// Time in which damaged firewall rules are back.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1);

// R-39.
#[tokio::test]
async fn removed_firewall_rules_are_restored_within_a_second() {
    // The next resync is half a minute away.
    let installation = Installation::start().await;
    let (_, route) = installation.running_instance().await;
    let address = route.address.unwrap();
    let table = format!("memgate_{}", installation.id);
    let before = output("nft", &["list", "table", "inet", &table]);
    for damage in [
        vec!["delete", "table", "inet", &table],
        vec!["flush", "table", "inet", &table],
        vec!["flush", "chain", "inet", &table, "forward"],
        vec!["insert", "rule", "inet", &table, "output", "accept"],
        vec!["delete", "chain", "inet", &table, "input"],
    ] {
        let damaged = Instant::now();
        output("nft", &damage);
        crate::harness::until("rules", Duration::from_secs(10), || async {
            let listed = Command::new("nft").args(["list", "table", "inet", &table]).output().unwrap();
            (String::from_utf8_lossy(&listed.stdout) == before).then_some(())
        })
        .await;
        println!("{damage:?}: restored after {:?}", damaged.elapsed());
        assert!(damaged.elapsed() < RESTORE_TIMEOUT, "{damage:?}: {:?}", damaged.elapsed());
        assert!(!user_reaches("nobody", &address), "{damage:?}");
    }
    let metrics = crate::harness::get(installation.config.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_provisioner_firewall_repairs_total 5"), "{metrics}");
}

// R-39, R-2.
#[tokio::test]
async fn siblings_are_isolated_without_dockers_rules() {
    let installation = Installation::start().await;
    let (a, _) = installation.running_instance().await;
    let (_b, b_route) = installation.running_instance().await;
    let b_address = b_route.address.unwrap();
    // Docker's own rules for this network's bridge, and only those, as if someone had flushed them.
    let container = inspect("container", &installation.container(&a));
    let network = inspect("network", container["HostConfig"]["NetworkMode"].as_str().unwrap());
    let bridge = network["Options"]["com.docker.network.bridge.name"].as_str().unwrap();
    let listed = output("iptables", &["-S"]);
    let rules = listed.lines().filter(|rule| rule.contains(bridge) && rule.starts_with("-A"));
    for rule in rules {
        let delete = rule.replacen("-A", "-D", 1);
        output("iptables", &delete.split_whitespace().collect::<Vec<_>>());
    }
    assert!(!output("iptables", &["-S"]).contains(bridge));
    let namespace = Namespace::of(&installation.container(&a));
    assert!(!namespace.reaches(&b_address, 11211), "a sibling answers");
}

#[test]
fn the_query_is_a_valid_dns_query() {
    // Sends the query above to a local socket: a test of the test.
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    output("bash", &["-c", &format!("printf '{QUERY}' >/dev/udp/127.0.0.1/{port}")]);
    let mut bytes = [0; 64];
    let length = server.recv(&mut bytes).unwrap();
    assert_eq!((length, &bytes[12..20]), (29, b"\x07example".as_slice()));
}
