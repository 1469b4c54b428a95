//! The proxy's certificate is replaced, also by files that can't be used.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::command::run;
use crate::error::LoadError;
use crate::faults::certificate::{certificate_paths, issue, make_expired};
use crate::faults::fault::{Fault, Promise, Source};
use crate::faults::scene::Scene;

/// More than twice the time between two looks at the files.
const SEEN_SECONDS: f64 = 4.0;
const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(50);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "certificate-replaced",
        does: "the certificate replaced by another",
        rules: "F-14",
        before: "taken in 1.1 s, no error",
        promise: Promise::UNNOTICED,
        inject: replaced,
    },
    Fault {
        name: "certificate-broken",
        does: "the certificate's file overwritten with something else",
        rules: "F-14",
        before: "old one kept, shown",
        promise: Promise { told: &[(Source::Status, "certificate")], ..Promise::UNNOTICED },
        inject: |scene| unusable(scene, |certificate, _| Ok(fs::write(certificate, "no certificate")?)),
    },
    Fault {
        name: "certificate-other-key",
        does: "the key replaced by one that doesn't fit",
        rules: "F-14",
        before: "old one kept, shown",
        promise: Promise { told: &[(Source::Status, "certificate")], ..Promise::UNNOTICED },
        inject: |scene| {
            unusable(scene, |_, key| {
                run("openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
                    .map(drop)
            })
        },
    },
    Fault {
        name: "certificate-expired",
        does: "the certificate replaced by one that has expired",
        rules: "F-31",
        before: "TAKEN AND SERVED, ready",
        promise: Promise { told: &[(Source::Status, "expired")], ..Promise::UNNOTICED },
        inject: |scene| unusable(scene, make_expired),
    },
];

/// Handshakes all the time until it is dropped, and counts those that fail.
struct Handshakes {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Handshakes {
    fn start(endpoint: String) -> Self {
        let (stop, done, failed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let thread = std::thread::spawn({
            let (stop, done, failed) = (stop.clone(), done.clone(), failed.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let counter = if served(&endpoint).is_some() { &done } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(HANDSHAKE_INTERVAL);
                }
            }
        });
        Self { stop, done, failed, thread: Some(thread) }
    }

    fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// The certificate that a new connection is shown.
fn served(endpoint: &str) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", endpoint, "-servername", "localhost"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, after) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    Some(after.split_once("-----END CERTIFICATE-----")?.0.to_owned())
}

fn replaced(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let endpoint = scene.bed.installation.endpoint().to_string();
    let before = served(&endpoint);
    let handshakes = Handshakes::start(endpoint.clone());
    // Open TLS connections keep their certificate; this one only has to stay open.
    let open = TcpStream::connect(scene.bed.installation.endpoint())?;
    scene.begin();
    issue(scene.bed.folder.path(), 365)?;
    let taken =
        scene.wait_for(10.0, || Ok(served(&endpoint).is_some_and(|now| before.as_ref() != Some(&now))))?;
    let seconds = scene.seconds();
    drop(open);
    let (done, failed) = handshakes.finish();
    scene.check(taken && failed == 0, "the new one is served, and no handshake fails");
    scene.note(format!("served after {seconds:.1} s; {failed} of {} handshakes failed", done + failed));
    Ok(())
}

/// Puts something in the place of the certificate or key that must not be taken.
fn unusable(
    scene: &mut Scene<'_>,
    replace: fn(&str, &str) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let endpoint = scene.bed.installation.endpoint().to_string();
    let before = served(&endpoint);
    let handshakes = Handshakes::start(endpoint.clone());
    let (certificate, key) = certificate_paths(scene.bed.folder.path());
    let saved = [fs::read(&certificate)?, fs::read(&key)?];
    scene.begin();
    let done = replace(&certificate.to_string_lossy(), &key.to_string_lossy())
        .and_then(|()| scene.wait(SEEN_SECONDS));
    let now = served(&endpoint);
    fs::write(&certificate, &saved[0])?;
    // Made by this user, for the proxy to read.
    let _ = fs::set_permissions(&key, Permissions::from_mode(0o644));
    fs::write(&key, &saved[1])?;
    scene.end();
    let (handshaken, failed) = handshakes.finish();
    done?;
    scene.check(before.is_some() && now == before && failed == 0, "the old one is served throughout");
    scene.note(format!("{failed} of {} handshakes failed", handshaken + failed));
    Ok(())
}
