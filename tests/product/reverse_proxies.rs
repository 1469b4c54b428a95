//! The reverse proxies of deploy/examples in front of the web UI: signing in, the visitors' addresses, and event streams.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::documents::{Background, program, read};
use crate::harness::{Installation, Product, deadline_in, signal, wait_until};

const HOST: &str = "cache.example.org";
const ORIGIN: &str = "https://cache.example.org";
const EMAIL: &str = "ada@example.org";
const PASSWORD: &str = "a long enough sentence";
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A product with the settings that the document names. A source may report one leaked token a minute.
fn product() -> Product {
    let installation = Installation::new();
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    let mut up = installation.memgate(&["up", "--set", "webui.limits.leak_reports_per_minute=1"]);
    let examples = ["deploy/examples/nginx-webui.conf", "deploy/examples/Caddyfile"].map(read);
    for setting in ["base_url = \"https://cache.example.org\"", "trusted_proxies = [\"127.0.0.1\"]"] {
        assert!(document.contains(setting) && examples.iter().all(|it| it.contains(setting)), "{setting}");
        let (key, value) = setting.split_once(" = ").unwrap();
        up.args(["--set", &format!("webui.{key}={value}")]);
    }
    let log = File::create(installation.log()).unwrap();
    let started = installation.up_with(up.stderr(log));
    Product::running(installation, started)
}

/// A reverse proxy, and a visitor's browser that trusts it.
struct Site {
    _proxy: Background,
    address: SocketAddr,
    dir: tempfile::TempDir,
    /// The certificate that the browser trusts.
    root: PathBuf,
}

impl Site {
    fn start(dir: tempfile::TempDir, address: SocketAddr, root: PathBuf, command: &mut Command) -> Self {
        let log = File::create(dir.path().join("log")).unwrap();
        let proxy = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let site = Self { _proxy: Background(proxy.unwrap()), address, dir, root };
        let is_up = || TcpStream::connect(address).is_ok() && site.root.exists();
        wait_until(deadline_in(20), "the reverse proxy listens", is_up);
        site
    }

    fn nginx(web: SocketAddr) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), testkit::free_port());
        let nginx = program("/usr/sbin/nginx", "nginx", dir.path());
        let key = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let root = dir.path().join("fullchain.pem");
        fs::write(&root, key.cert.pem()).unwrap();
        fs::write(dir.path().join("privkey.pem"), key.signing_key.serialize_pem()).unwrap();
        let folder = dir.path().display().to_string();
        let example = read("deploy/examples/nginx-webui.conf")
            .replace("/etc/letsencrypt/live/cache.example.org", &folder)
            .replace("listen 443 ssl", &format!("listen {address} ssl"))
            .replace("127.0.0.1:8080", &web.to_string());
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
            .collect();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{paths}{example}}}\n"
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        Self::start(dir, address, root, Command::new(nginx).arg("-c").arg(&file))
    }

    /// Caddy, with certificates of its own authority instead of a public one's.
    fn caddy(web: SocketAddr) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), testkit::free_port());
        let caddy = program("/usr/bin/caddy", "caddy", dir.path());
        let example = read("deploy/examples/Caddyfile").replace("127.0.0.1:8080", &web.to_string());
        let options = format!(
            "{{\nadmin off\nlocal_certs\nskip_install_trust\nauto_https disable_redirects\nhttps_port {}\n}}\n",
            address.port()
        );
        let file = dir.path().join("Caddyfile");
        fs::write(&file, options + &example).unwrap();
        let root = dir.path().join("caddy/pki/authorities/local/root.crt");
        let mut command = Command::new(caddy);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
        command.env("XDG_DATA_HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path()).env("HOME", dir.path());
        Self::start(dir, address, root, &mut command)
    }

    /// A request of a browser that believes that the proxy has port 443.
    fn curl(&self, path: &str, arguments: &[&str]) -> Command {
        let jar = self.dir.path().join("cookies");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--connect-to"]).arg(format!("{HOST}:443:{}", self.address));
        curl.arg("--cacert").arg(&self.root).arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar);
        curl.args(arguments).arg(format!("{ORIGIN}{path}"));
        curl
    }

    fn get(&self, path: &str, arguments: &[&str]) -> String {
        let output = self.curl(path, arguments).output().unwrap();
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{path}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Submits the form of a page. Returns the head of the response.
    fn submit(&self, path: &str) -> String {
        let page = self.get(path, &[]);
        let (_, token) = page.split_once("name=\"csrf_token\" value=\"").unwrap();
        let token = format!("csrf_token={}", token.split('"').next().unwrap());
        let (email, password) = (format!("email={EMAIL}"), format!("password={PASSWORD}"));
        let fields = [&token, &email, &password].map(|field| ["--data-urlencode", field.as_str()]);
        let origin = format!("Origin: {ORIGIN}");
        let head = ["--dump-header", "-", "--output", "/dev/null", "--header", &origin];
        self.get(path, &[&head[..], fields.as_flattened()].concat())
    }

    /// The status of a report of a leaked token.
    fn report(&self, from: &str, header: &str) -> String {
        let token = "token=mg_000000000000_000000000000000000000000000000000";
        let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        let request = ["--interface", from, "--header", header, "--data", token];
        self.get("/leaked-tokens", &[&status[..], &request].concat())
    }

    /// The events of the page of the cache, as they arrive.
    fn events(&self) -> (Background, Receiver<String>) {
        let page = self.get("/caches", &["--location"]);
        let (_, rest) = page.split_once("data-events-url=\"").expect("the page of the cache");
        let path = rest.split('"').next().unwrap();
        let mut curl: Child = self.curl(path, &["--no-buffer"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(curl.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (send, received) = channel();
        std::thread::spawn(move || {
            let data = lines.filter(|line| line.starts_with("data: "));
            data.map(|line| send.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        (Background(curl), received)
    }
}

/// What the document promises of its examples.
fn check(product: &Product, site: &Site) {
    product.register_secret(PASSWORD);
    // Signing in, with cookies that a browser keeps for TLS only.
    let sign_in = |page: &str, status: &str| {
        let _ = fs::remove_file(site.dir.path().join("cookies"));
        let head = site.submit(page);
        assert!(head.contains(status), "{page}: {head}");
        assert!(head.contains("__Host-memgate=") && head.contains("Secure"), "{page}: {head}");
        assert!(site.get("/account", &[]).contains(EMAIL), "{page}");
    };
    let provisioner = product.role("provisioner").unwrap();
    signal(provisioner, "STOP");
    sign_in("/sign-up", " 200");
    // Events arrive when they happen, not when a buffer is full.
    let (_stream, events) = site.events();
    let next = || events.recv_timeout(EVENT_TIMEOUT).unwrap_or_else(|_| panic!("no event"));
    assert!(next().contains("\"pending\""));
    signal(provisioner, "CONT");
    while !next().contains("\"running\"") {}
    sign_in("/sign-in", " 303");
    // Each visitor has limits of their own, and can't choose another address.
    let forged = "X-Forwarded-For: 203.0.113.9";
    assert_eq!(site.report("127.0.0.5", "A: b"), "200");
    for header in ["A: b", forged, "Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"] {
        assert_eq!(site.report("127.0.0.5", header), "429", "{header}");
    }
    assert_eq!(site.report("127.0.0.6", forged), "200");
}

// W-8.
#[test]
fn nginx_passes_sign_ins_addresses_and_events() {
    let product = product();
    check(&product, &Site::nginx(product.web()));
}

// W-8.
#[test]
fn caddy_passes_sign_ins_addresses_and_events() {
    let product = product();
    check(&product, &Site::caddy(product.web()));
}
