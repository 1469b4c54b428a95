//! The load balancers of deploy/examples in front of the proxy: which proxies they choose, and the clients' addresses.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use crate::documents::{Background, program, read};
use crate::harness::{Credentials, Product, deadline_in, wait_until};
use crate::text_client::TextClient;

/// A load balancer whose first proxy is the product's, and whose second doesn't run.
struct Balancer {
    _process: Background,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Balancer {
    /// Starts a program with the example's text, for this machine's ports.
    fn start(
        example: &str,
        product: &Product,
        command: impl FnOnce(&str, &tempfile::TempDir) -> Command,
    ) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), testkit::free_port());
        let [away, away_health] = [(); 2].map(|()| testkit::free_port());
        let text = read(example)
            // Not more files than a process may open here.
            .replace("maxconn 100000", "maxconn 1000")
            .replace("bind :11211", &format!("bind {address}"))
            .replace("listen 11211", &format!("listen {address}"))
            .replace("127.0.0.1:11212", &product.endpoint().to_string())
            .replace("port 9161", &format!("port {}", product.role_health("proxy").port()))
            .replace("127.0.0.1:11213", &away.to_string())
            .replace("port 9162", &format!("port {}", away_health.port()));
        let mut command = command(&text, &dir);
        let log = File::create(dir.path().join("log")).unwrap();
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let balancer = Self { _process: Background(process.unwrap()), address, dir };
        wait_until(deadline_in(20), "the load balancer listens", || TcpStream::connect(address).is_ok());
        balancer
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What a login from this address is answered.
    fn log_in(&self, from: &str, token: &Credentials) -> String {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        let login = format!("{} {}", token.username, token.password);
        write!(stream, "set auth 0 0 {}\r\n{login}\r\n", login.len()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    /// Clients reach their caches, and are known by their own addresses.
    fn check(&self, product: &Product) {
        let ada = product.add_user("ada@example.org");
        // More than each proxy's turn.
        for number in 0..6 {
            let mut client = TextClient::log_in(self.address, &ada);
            assert_eq!(client.set(&format!("key {number}").replace(' ', "-"), b"value"), "STORED");
        }
        let limited = product.credentials(&["token", "create", &ada.email, "--allow-from", "127.0.0.5/32"]);
        assert_eq!(self.log_in("127.0.0.5", &limited), "STORED\r\n", "{}", self.log());
        assert_eq!(self.log_in("127.0.0.6", &limited), "CLIENT_ERROR authentication failure\r\n");
    }
}

fn product() -> Product {
    Product::start_with(&[("MEMGATE_PROXY__PROXY_PROTOCOL_FROM", "[\"127.0.0.1/32\"]")])
}

#[test]
fn haproxy_balances_ready_proxies_and_passes_addresses() {
    let product = product();
    let balancer = Balancer::start("deploy/examples/haproxy.cfg", &product, |text, dir| {
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        haproxy
    });
    wait_until(deadline_in(20), "the proxy that is away is noticed", || {
        balancer.log().contains("Server proxies/proxy2 is DOWN")
    });
    balancer.check(&product);
    assert!(!balancer.log().contains("proxies/proxy1 is DOWN"), "{}", balancer.log());
}

#[test]
fn nginx_tries_the_next_proxy_and_passes_addresses() {
    let product = product();
    let balancer = Balancer::start("deploy/examples/nginx-stream.conf", &product, |text, dir| {
        let nginx = program("/usr/sbin/nginx", "nginx", dir.path());
        let module =
            program("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream", dir.path());
        let folder = dir.path().display();
        let config = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n{text}",
            module.display()
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-c").arg(file);
        command
    });
    balancer.check(&product);
}
