//! What `memgate config check` finds out about the settings beyond their types: whether addresses, ranges, files and names
//! fit each other and this machine.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use serde::Serialize;
use x509_parser::pem::Pem;

use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::{Role, runtime};
use crate::settings::Settings;

/// Bytes that are read of a certificate file.
const CERTIFICATE_MAX: u64 = 1 << 20;

/// How a certificate's block of PEM is named.
const CERTIFICATE: &str = "CERTIFICATE";

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Findings {
    /// What can't be used.
    pub(in crate::cli) problems: Vec<SettingError>,
    /// What is valid, and not what everybody wants.
    pub(in crate::cli) warnings: Vec<String>,
    /// What couldn't be looked at, and why.
    pub(in crate::cli) not_checked: Vec<String>,
}

/// What can't be used, and how to fix it.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct SettingError {
    pub(in crate::cli) error: String,
    pub(in crate::cli) fix: String,
}

impl Findings {
    /// Checks all settings.
    pub(in crate::cli) fn of(settings: &Settings, data_dir: &DataDir) -> Self {
        let mut findings = Self::default();
        findings.addresses(&settings.listeners());
        findings.values(settings);
        findings.certificates(settings);
        findings.docker(settings);
        findings.scram(settings);
        findings.contents(settings, data_dir);
        findings
    }

    /// Checks what a proxy that runs alone uses of the settings.
    pub(in crate::cli) fn of_proxy(settings: &Settings) -> Self {
        let mut findings = Self::default();
        let own = Role::Proxy.own_settings(settings);
        let listeners = own.listeners().into_iter().filter(|(key, _)| key.starts_with("proxy."));
        findings.addresses(&listeners.collect::<Vec<_>>());
        findings.values(&own);
        findings.certificates(&own);
        findings
    }

    fn problem(&mut self, error: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(SettingError { error: error.into(), fix: fix.into() });
    }

    fn error(&mut self, error: CliError) {
        let (error, fix) = error.into_parts();
        self.problem(error, fix);
    }

    /// Each listener has a port of its own.
    fn addresses(&mut self, all: &[(&str, SocketAddr)]) {
        for (at, (key, address)) in all.iter().enumerate() {
            if address.port() == 0 {
                self.problem(format!("{key} is {address}, which has no port"), "give a port from 1 to 65535");
            }
            for (other, taken) in &all[..at] {
                if overlap(*address, *taken) {
                    self.problem(
                        format!("{key} and {other} are both port {}", address.port()),
                        format!("give {key} another port"),
                    );
                }
            }
        }
    }

    fn values(&mut self, settings: &Settings) {
        for (key, fix) in settings.proxy.out_of_range() {
            self.problem(format!("{key} is out of its range"), fix);
        }
        for error in settings.provisioner.problems() {
            self.error(error.into());
        }
        for error in settings.webui.problems() {
            self.error(error.into());
        }
        if let Some(url) = &settings.store.url
            && !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
        {
            self.problem("store.url is no PostgreSQL address", "write it like postgres://user@host/database");
        }
        if settings.limits.caches_per_user == 0 {
            self.problem("limits.caches_per_user is 0", "give at least 1: sign-up creates a cache");
        }
        if let Err(error) = daemon::telemetry::check_filter(&settings.log.filter) {
            self.problem(
                format!("log.filter is invalid ({error})"),
                "write it like info, or proxy=debug,warn",
            );
        }
    }

    fn certificates(&mut self, settings: &Settings) {
        if let Err(error) = proxy::check_certificate(&settings.proxy) {
            self.error(error.into());
        } else if let Some(file) = &settings.proxy.tls_certificate {
            self.validity("proxy.tls_certificate", file);
        }
        for (key, file) in [
            ("webui.ca_certificate", &settings.webui.ca_certificate),
            ("webui.mail.ca_certificate", &settings.webui.mail.ca_certificate),
            ("webui.webhooks.ca_certificate", &settings.webui.webhooks.ca_certificate),
        ] {
            if let Some(file) = file {
                self.validity(key, file);
            }
        }
    }

    /// Whether a file contains a certificate that is valid now.
    fn validity(&mut self, key: &str, file: &Path) {
        let shown = file.display();
        let text = match read_start(file) {
            Ok(text) => text,
            Err(error) => return self.unreadable(key, file, &error),
        };
        // A key file begins with another block.
        let is_certificate = |pem: &Pem| pem.label == CERTIFICATE;
        let found = Pem::iter_from_buffer(&text).filter_map(Result::ok).find(is_certificate);
        let validity = found.as_ref().and_then(|pem| Some(pem.parse_x509().ok()?.validity().clone()));
        match validity {
            None => self.problem(format!("{key}: {shown} contains no certificate"), "write it in PEM"),
            Some(it) if !it.is_valid() => {
                let (from, to) = (it.not_before, it.not_after);
                self.problem(
                    format!("{key}: {shown} is valid from {from} to {to} only"),
                    "name a certificate that is valid now, or check this machine's clock",
                );
            }
            Some(_) => {}
        }
    }

    fn docker(&mut self, settings: &Settings) {
        let socket = &settings.provisioner.docker_socket;
        match fs::metadata(socket) {
            Ok(meta) if meta.file_type().is_socket() => {}
            Ok(_) => self.problem(
                format!("provisioner.docker_socket: {} is no socket", socket.display()),
                "name the socket of Docker Engine, usually /var/run/docker.sock",
            ),
            Err(error) => self.unreadable("provisioner.docker_socket", socket, &error),
        }
    }

    fn scram(&mut self, settings: &Settings) {
        if settings.proxy.scram {
            let text = "proxy.scram locks out libmemcached 1.0.x, which pylibmc's wheel contains: it chooses SCRAM and \
                        can't finish it. Set it only if no such clients are in use";
            self.warnings.push(text.to_owned());
        }
    }

    /// The plan of new accounts has to exist, and the pool should have the networks of existing caches.
    fn contents(&mut self, settings: &Settings, data_dir: &DataDir) {
        let plan = &settings.webui.plan;
        match Contents::read(settings, data_dir) {
            Ok(Some(contents)) => {
                if !contents.has_plan {
                    self.problem(
                        format!("webui.plan is {plan}, and there is no such plan"),
                        format!(
                            "create it with `memgate plan create {plan}`; `memgate plan list` shows all plans"
                        ),
                    );
                }
                self.subnets(settings, &contents.subnets);
            }
            Ok(None) if plan == store::DEFAULT_PLAN => {}
            Ok(None) => self.not_checked.push(format!(
                "webui.plan: whether the plan {plan} exists, because {} contains no memgate data yet",
                data_dir.path().display()
            )),
            Err(error) => self.not_checked.extend([
                format!("webui.plan: whether the plan {plan} exists ({error})"),
                "provisioner.subnets: whether it has the networks of existing caches".to_owned(),
            ]),
        }
    }

    /// Each of the `used` subnets has caches.
    fn subnets(&mut self, settings: &Settings, used: &[(String, i64)]) {
        let pool = &settings.provisioner.subnets;
        for (subnet, instances) in used.iter().filter(|(subnet, _)| settings.provisioner.lacks(subnet)) {
            self.warnings.push(format!(
                "provisioner.subnets is {pool}, without {subnet}, in which caches are ({instances}): the proxy connects to \
                 no address there. Set a network that contains it, or the former one"
            ));
        }
    }

    /// A file that this user may not read proves nothing about those who may.
    fn unreadable(&mut self, key: &str, file: &Path, error: &std::io::Error) {
        let shown = file.display();
        if error.kind() == ErrorKind::PermissionDenied {
            self.not_checked.push(format!("{key}: this user may not read {shown}; run this as root"));
        } else {
            self.error(CliError::new(
                format!("{key}: can't read {shown} ({error})"),
                "name an existing file",
            ));
        }
    }
}

/// Whether two listeners can't be open at the same time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    let same_host = one.ip() == other.ip() || is_any(one) || is_any(other);
    one.port() == other.port() && one.port() != 0 && same_host
}

fn read_start(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(CERTIFICATE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the settings are compared with.
struct Contents {
    /// Whether the plan of new accounts exists.
    has_plan: bool,
    /// Subnets with caches, and how many.
    subnets: Vec<(String, i64)>,
}

impl Contents {
    /// Reads the store; `None` if there is no installation yet.
    fn read(settings: &Settings, data_dir: &DataDir) -> Result<Option<Self>, CliError> {
        if !data_dir.is_initialized()? {
            return Ok(None);
        }
        runtime()?.block_on(async {
            let store = data_dir.open_store(settings).await?;
            let (plan, subnets) = (store.plan(&settings.webui.plan).await, store.subnets_in_use().await);
            data_dir.close_store(settings, &store).await;
            Ok(Some(Self { has_plan: plan?.is_some(), subnets: subnets? }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found with default settings that `change` changed, without an installation.
    fn found(change: impl FnOnce(&mut Settings)) -> String {
        let dir = tempfile::tempdir().unwrap();
        found_in(&DataDir::at(&dir.path().join("data")), change)
    }

    /// The same with a data directory.
    fn found_in(data_dir: &DataDir, change: impl FnOnce(&mut Settings)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        // Its own test is below.
        settings.provisioner.docker_socket = dir.path().join("docker.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&settings.provisioner.docker_socket).unwrap();
        change(&mut settings);
        let findings = Findings::of(&settings, data_dir);
        let problems = findings.problems.iter().map(|it| format!("{}: {}", it.error, it.fix));
        problems.chain(findings.warnings).chain(findings.not_checked).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn default_settings_have_no_problems() {
        assert_eq!(found(|_| {}), "");
    }

    #[test]
    fn settings_that_can_not_work_are_told_with_their_fix() {
        type Case = (fn(&mut Settings), &'static [&'static str]);
        let cases: [Case; 16] = [
            (|s| s.proxy.tls_certificate = Some("/nope.pem".into()), &["must be set together"]),
            (
                |s| {
                    s.proxy.tls_certificate = Some("/nope.pem".into());
                    s.proxy.tls_key = Some("/nope.key".into());
                },
                &["/nope.pem", "name an existing file"],
            ),
            (|s| s.webui.endpoint = "cache.example.org".into(), &["not host:port"]),
            (|s| s.webui.base_url = Some("cache.example.org".into()), &["webui.base_url", "https://"]),
            (
                |s| s.webui.mail.server = Some("smtp://user@mail.example.org".into()),
                &["webui.mail.password_file", "webui.mail.from", "webui.base_url"],
            ),
            (|s| s.webui.plan = "nosuch".into(), &["plan nosuch exists", "no memgate data"]),
            (|s| s.provisioner.cpus = -1.0, &["provisioner.cpus", "0.01 to 1024"]),
            (|s| s.provisioner.subnets = "10.0.0.0/30".into(), &["provisioner.subnets", "/8 to /22"]),
            (|s| s.provisioner.subnets = "203.0.113.0/22".into(), &["provisioner.subnets", "private"]),
            (|s| s.proxy.stall_seconds = 0, &["proxy.stall_seconds", "1 to 3600"]),
            (|s| s.proxy.buffer_mb = 5, &["proxy.buffer_mb", "at least 16"]),
            (|s| s.proxy.listen.set_port(8080), &["webui.listen and proxy.listen are both port 8080"]),
            (|s| s.webui.listen.set_port(0), &["webui.listen", "no port"]),
            (|s| s.store.url = Some("mysql://x".into()), &["store.url", "postgres://"]),
            (|s| s.provisioner.docker_socket = "/etc/passwd".into(), &["is no socket"]),
            (|s| s.webui.ca_certificate = Some("/etc/passwd".into()), &["contains no certificate"]),
        ];
        for (change, parts) in cases {
            let text = found(change);
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
        }
    }

    #[test]
    fn all_problems_are_told() {
        let text = found(|s| {
            s.webui.endpoint = "x".into();
            s.webui.base_url = Some("y".into());
            s.provisioner.cpus = -1.0;
            s.provisioner.subnets = "z".into();
        });
        for part in ["webui.endpoint", "webui.base_url", "provisioner.cpus", "provisioner.subnets"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn scram_is_warned_about() {
        assert!(found(|s| s.proxy.scram = true).contains("libmemcached 1.0.x"));
    }

    //
    #[test]
    fn pool_without_the_network_of_a_cache_is_warned_about() {
        let dir = tempfile::tempdir().unwrap();
        let mut data_dir = DataDir::at(&dir.path().join("data"));
        let settings = Settings::default();
        data_dir.prepare(&settings, None).unwrap();
        let prepared = runtime().unwrap().block_on(async {
            let (store, _) = data_dir.open_or_create(&settings, None).await?;
            for (name, third) in [("used", "0"), ("unused", "4")] {
                let network = store::Network {
                    name: name.into(),
                    bridge: name.into(),
                    subnet: format!("10.213.{third}.0/22"),
                    gateway: format!("10.213.{third}.1"),
                };
                store.add_network(&network, &[format!("10.213.{third}.10")]).await?;
            }
            store.lease_address("one", std::time::Duration::ZERO).await?;
            data_dir.close_store(&settings, &store).await;
            Ok::<_, CliError>(())
        });
        prepared.unwrap();
        assert_eq!(found_in(&data_dir, |_| {}), "");
        for (pool, told) in [
            ("10.213.0.0/22", None),
            ("10.0.0.0/8", None),
            ("10.214.0.0/16", Some("without 10.213.0.0/22, in which caches are (1)")),
            ("10.213.4.0/22", Some("without 10.213.0.0/22")),
        ] {
            let text = found_in(&data_dir, |s| s.provisioner.subnets = pool.into());
            match told {
                None => assert_eq!(text, "", "{pool}"),
                Some(told) => assert!(text.contains(told) && text.lines().count() == 1, "{pool}: {text}"),
            }
        }
    }
}
