//! Docker Compose: what deploy/compose/up starts, by its documented commands, and what each container may do.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Credentials, MEMGATE, docker, is_root};
use crate::text_client::TextClient;

const PROJECT: &str = "memgate-test-compose";

/// Stopped, with its caches and its database removed, when dropped.
struct Composed {
    folder: tempfile::TempDir,
    proxies: [SocketAddr; 2],
}

impl Composed {
    fn start() -> Self {
        // Root trusts no folder that others may write.
        let folder = tempfile::Builder::new().prefix("memgate-compose").tempdir_in("/var/lib").unwrap();
        let proxies = [(); 2].map(|()| testkit::free_port());
        let mut variables = format!(
            "MG_PROJECT={PROJECT}\nMG_NETWORK=10.209.77\nMG_SUBNETS=10.208.0.0/16\nMG_READY_INSTANCES=0\n"
        );
        variables
            .push_str(&format!("MG_ENDPOINT={0}\nMG_PROXY1={0}\nMG_PROXY2={1}\n", proxies[0], proxies[1]));
        for name in ["PROXY1_HEALTH", "PROXY2_HEALTH", "PROVISIONER_HEALTH", "WEBUI", "WEBUI_HEALTH"] {
            variables.push_str(&format!("MG_{name}={}\n", testkit::free_port()));
        }
        fs::write(folder.path().join("compose.env"), variables).unwrap();
        let composed = Self { folder, proxies };
        let output = composed.script("up", &["--binary", MEMGATE]);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.ends_with("memgate is ready\n"), "{stdout}{stderr}");
        composed
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose").join(name);
        let mut command = Command::new(script);
        command.args(arguments).arg(self.folder.path()).output().unwrap()
    }

    /// A command on the host, as the script's last lines say.
    fn memgate(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(MEMGATE);
        command.arg("--data").arg(self.folder.path().join("data")).args(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.memgate(&[arguments, &["--json"]].concat());
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stderr}{stdout}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn containers(&self) -> Vec<Value> {
        let filter = format!("label=com.docker.compose.project={PROJECT}");
        let ids = docker(&["ps", "--quiet", "--filter", &filter]);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let output = Command::new("docker").arg("inspect").args(ids).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        // PostgreSQL goes last: `memgate down` compares the installation with it.
        for container in self.containers() {
            if container["Config"]["Labels"]["com.docker.compose.service"] != "postgres" {
                let _ = Command::new("docker").args(["stop", container["Id"].as_str().unwrap()]).output();
            }
        }
        let removed = self.memgate(&["down"]);
        let deleted = self.script("down", &["--volumes"]);
        if !std::thread::panicking() {
            for output in [removed, deleted] {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

/// No container has more than it needs: R-18's rules for memgate's own.
fn check_restrictions(containers: &[Value]) {
    assert_eq!(containers.len(), 5);
    for container in containers {
        let service = container["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap();
        let host = &container["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{service}");
        assert_eq!(host["Privileged"], false, "{service}");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{service}");
        assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"), "{service}");
        let is_provisioner = service == "provisioner";
        let user = container["Config"]["User"].as_str().unwrap();
        assert_eq!(user.starts_with("0:") || user.is_empty(), is_provisioner, "{service}: {user}");
        assert_eq!(host["CapAdd"].is_null(), !is_provisioner, "{service}: {}", host["CapAdd"]);
        let mounts = container["Mounts"].to_string();
        assert_eq!(mounts.contains("docker.sock"), is_provisioner, "{service}: {mounts}");
        assert_eq!(host["PidMode"] == "host", is_provisioner, "{service}");
        // Secrets are files: the environment is for everybody to read who may ask Docker.
        let environment = container["Config"]["Env"].to_string();
        assert!(
            !environment.contains("postgres://") && !environment.contains("PASSWORD"),
            "{service}: {environment}"
        );
    }
}

//
#[test]
fn compose_serves_caches_through_both_proxies() {
    if !is_root() {
        return;
    }
    let composed = Composed::start();
    check_restrictions(&composed.containers());
    let printed = composed.json(&["user", "add", "ada@example.org"]);
    let text = |key: &str| printed[key].as_str().unwrap().to_owned();
    let ada = Credentials {
        email: text("email"),
        username: text("username"),
        password: text("password"),
        token: text("token"),
    };
    let mut writer = TextClient::log_in(composed.proxies[0], &ada);
    assert_eq!(writer.set("greeting", b"hello"), "STORED");
    let mut reader = TextClient::log_in(composed.proxies[1], &ada);
    assert_eq!(reader.get("greeting"), Ok(Some(b"hello".to_vec())));
    let status = composed.json(&["status"]);
    assert_eq!(status["proxies"].as_array().unwrap().len(), 2, "{status}");
    // What a client sees, with the certificate that the script has issued.
    let token = composed.folder.path().join("token");
    fs::write(&token, &ada.token).unwrap();
    let ca = composed.folder.path().join("data/ca.pem");
    for proxy in composed.proxies {
        let arguments = [
            "doctor",
            "--connect",
            &proxy.to_string(),
            "--token-file",
            token.to_str().unwrap(),
            "--ca",
            ca.to_str().unwrap(),
        ];
        let output = composed.memgate(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    // Again: nothing is lost, and the certificate is another one.
    let certificate = || fs::read(composed.folder.path().join("data/server.pem")).unwrap();
    let before = certificate();
    let again = composed.script("up", &["--binary", MEMGATE]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_ne!(certificate(), before);
    assert_eq!(TextClient::log_in(composed.proxies[1], &ada).get("greeting"), Ok(Some(b"hello".to_vec())));
}
