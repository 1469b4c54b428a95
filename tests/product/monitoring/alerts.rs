//! Each alert fires for the fault that it names: in a real Prometheus where a test can cause the fault, and with made-up series
//! in `promtool` for all of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use testkit::Postgres;

use super::prometheus::{Prometheus, tool};
use super::{RULES, alert_names};
use crate::commands_with_proxy::{RoleProcess, login};
use crate::documents::read;
use crate::harness::{Installation, LOOK_EVERY_SECOND, Product, deadline_in, is_root, wait_until};
use crate::text_client::TextClient;

const RULE_TESTS: &str = "deploy/prometheus/alerts_test.yml";

fn promtool(arguments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut promtool = Command::new(tool("promtool", &dir));
    let output = promtool.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {out}{err}");
}

#[test]
fn rules_and_example_are_valid_and_each_alert_has_a_unit_test() {
    promtool(&["check", "rules", RULES]);
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"]);
    promtool(&["test", "rules", RULE_TESTS]);
    let tests = read(RULE_TESTS);
    for alert in alert_names() {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no unit test");
    }
}

/// A certificate that ends in a week, and its key, as settings.
fn ending_certificate(dir: &Path) -> [(&'static str, String); 2] {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = (SystemTime::now() + Duration::from_hours(7 * 24)).into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = [
        ("MEMGATE_PROXY__TLS_CERTIFICATE", "short.pem", certificate.pem()),
        ("MEMGATE_PROXY__TLS_KEY", "short.key", key.serialize_pem()),
    ];
    files.map(|(setting, name, text)| {
        fs::write(dir.join(name), text).unwrap();
        (setting, dir.join(name).display().to_string())
    })
}

/// Roles without Docker, whose store goes away.
#[test]
fn alerts_of_roles_store_and_logins_fire_for_their_faults() {
    if !is_root() {
        return;
    }
    let mut postgres = Postgres::start();
    let installation = Installation::with_postgres(postgres.url());
    assert!(installation.run(&["migrate"]).status.success());
    let added = installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let username = added["username"].as_str().unwrap();
    let key = installation.json(&["api-key", "create", "ada@example.org", "--name", "test"]);
    let authorization = format!("Authorization: Bearer {}", key["api_key"].as_str().unwrap());
    let proxy = RoleProcess::proxy_with(&installation, &ending_certificate(installation.dir()));
    let _webui = RoleProcess::webui(&installation);
    let prometheus = Prometheus::start(&installation);
    prometheus.wait_for_jobs(2);
    prometheus.expect(&["MemgateRoleDown", "MemgateCertificateExpires"], || {});

    // No provisioner runs, and nothing else is wrong.
    prometheus.expect_end(&["MemgateStoreFailing", "MemgatePropagationLag", "MemgateRoleNotReady"]);
    prometheus.expect(&["MemgateDenialsSpike"], || {
        let wrong = login(username, "wrong");
        let clients: Vec<_> = (0..16).map(|_| TextClient::connect(installation.endpoint())).collect();
        for mut client in clients {
            client.request(wrong.as_bytes());
        }
    });

    postgres.kill();
    let expected =
        ["MemgateStoreFailing", "MemgatePropagationLag", "MemgateRoleNotReady", "MemgateWebuiErrors"];
    let account = format!("http://{}/api/v1/account", installation.web());
    prometheus.expect(&expected, || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "--max-time", "20", "-H", &authorization, &account]);
        assert!(curl.status().unwrap().success());
    });
    postgres.start_again();
    prometheus.expect_end(&expected);

    let pid = proxy.child();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 5);
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(limited.success());
    prometheus.expect(&["MemgateDescriptorsLow"], || {});
}

/// A whole product whose containers, roles and Docker have faults.
#[test]
fn alerts_of_caches_fire_for_their_faults() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let socket = installation.dir().join("docker.sock");
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    let mut up = installation.memgate(&["up"]);
    up.env("MEMGATE_PROVISIONER__DOCKER_SOCKET", &socket).env(LOOK_EVERY_SECOND.0, LOOK_EVERY_SECOND.1);
    up.env("MEMGATE_PROVISIONER__MEMORY_MB", "600").env("MEMGATE_PROXY__HOLD", "0");
    let log = fs::File::create(installation.log()).unwrap();
    let started = installation.up_with(up.stderr(log));
    let product = Product::running(installation, started);
    let ada = product.add_user("ada@example.org");
    let prometheus = Prometheus::start(&product);
    prometheus.wait_for_jobs(3);

    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let container = product.container(&ada.email);
    prometheus.expect(&["MemgateRequestErrors", "MemgateRequestsSlow"], || {
        // It is repaired after a while.
        let _ = Command::new("docker")
            .args(["pause", &container])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        client.set("key", b"value");
    });
    let _ = Command::new("docker")
        .args(["unpause", &container])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    prometheus.expect(&["MemgateCacheCrashLoop"], || {
        let killed = product.container(&ada.email);
        let _ = Command::new("docker")
            .args(["kill", &killed])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        wait_until(deadline_in(60), "it is repaired", || client.set("key", b"value") == "STORED");
    });

    // The most that fits.
    let resize = |mb: &u32| product.run(&["cache", "resize", &ada.email, "--memory-mb", &mb.to_string()]);
    (200..480_u32).rev().step_by(8).find(|mb| resize(mb).status.success()).unwrap();
    prometheus.expect(&["MemgateHostNearlyFull"], || {});

    let mut killed_at = String::new();
    prometheus.expect(&["MemgateRoleRestarts"], || {
        // Prometheus has to see each process.
        let started = prometheus.query("process_start_time_seconds{job=\"memgate-webui\"}");
        if started == killed_at {
            return;
        }
        killed_at = started;
        if let Some(webui) = product.role("webui").filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Command::new("kill").args(["-KILL", &webui.to_string()]).stderr(Stdio::null()).status();
        }
    });

    fs::remove_file(&socket).unwrap();
    prometheus.expect(&["MemgateDockerUnreachable", "MemgateNoGoodPass", "MemgateRoleNotReady"], || {});
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    prometheus.expect_end(&["MemgateDockerUnreachable", "MemgateNoGoodPass", "MemgateRoleNotReady"]);
}
