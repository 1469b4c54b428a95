//! The firewall: containers can't reach the host's ports, nor anything that the host forwards to, and of the
//! host's processes only root's and the proxy's reach containers. One nft table of the installation, installed
//! as a whole, checked at each resync and whenever any rule of the host changes, removed as a whole.

mod changes;
mod rules;

use std::io;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::error::Error;
use crate::names::Names;
use changes::Watch;
use rules::AllowedUsers;

/// The user that `memgate up` runs the proxy as. Without root it runs as the provisioner's own user.
pub(crate) const PROXY_USER: &str = "memgate-proxy";
/// Time between two checks of the table while rules keep changing: Docker changes many at a time.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Interval of the checks if the kernel doesn't tell of changes, or after a check that failed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// If 1, traffic within a bridge passes the host's firewall. Docker sets it.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The firewall of one installation.
#[derive(Debug)]
pub(crate) struct Firewall {
    names: Names,
    /// A name or a number.
    proxy_user: String,
    /// Kept once it is known: a failed look-up must not lock the proxy out.
    proxy_uid: OnceLock<u32>,
    /// Whether this process has found or installed the table; held while it checks.
    installed: Mutex<bool>,
    /// Whether the table is there, as far as this process knows.
    in_place: AtomicBool,
}

/// What a check of the table did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Complete,
    /// Installed for the first time.
    Installed,
    /// Something else had changed it.
    Restored,
}

impl Firewall {
    pub(crate) fn new(names: Names, proxy_user: String) -> Self {
        Self {
            names,
            proxy_user,
            proxy_uid: OnceLock::new(),
            installed: Mutex::new(false),
            in_place: AtomicBool::new(false),
        }
    }

    /// Checks that the proxy's user exists. The default one may be missing: `memgate up` creates it as root.
    ///
    /// # Errors
    /// [`Error::Setting`] if another user was configured that doesn't exist.
    pub(crate) async fn check_proxy_user(&self) -> Result<(), Error> {
        if self.proxy_uid().await.is_some() || self.proxy_user == PROXY_USER {
            return Ok(());
        }
        let fix = format!("no user \"{}\": give the name or number of the proxy's user", self.proxy_user);
        Err(Error::Setting { name: "provisioner.proxy_user", fix })
    }

    /// Installs the table unless it is complete.
    ///
    /// # Errors
    /// If the table can't be listed or installed. A table that this process has installed and can't list is left
    /// alone: nothing says that it was changed.
    pub(crate) async fn ensure(&self) -> Result<Checked, Error> {
        let users = self.allowed_users().await;
        let mut installed = self.installed.lock().await;
        let listed = list(&self.names).await;
        let checked = match listed {
            Ok(Some(listed)) if rules::is_complete(&self.names, &users, &listed) => Checked::Complete,
            Err(error) if *installed => return Err(error),
            _ => {
                let result = nft(&["-f", "-"], &rules::ruleset(&self.names, &users)).await;
                self.in_place.store(result.is_ok(), Ordering::Relaxed);
                result?;
                if *installed { Checked::Restored } else { Checked::Installed }
            }
        };
        *installed = true;
        self.in_place.store(true, Ordering::Relaxed);
        Ok(checked)
    }

    /// Refuses to start a container that would reach the host. Those that run are left alone.
    ///
    /// # Errors
    /// [`Error::NoFirewall`] while the table isn't installed.
    pub(crate) fn require(&self) -> Result<(), Error> {
        if self.in_place.load(Ordering::Relaxed) { Ok(()) } else { Err(Error::NoFirewall) }
    }

    /// Keeps the table complete: checks it after every change of the host's rules, and restores it. Calls
    /// `report` after each repair and failure, and once after failures.
    pub(crate) async fn keep<F: Future<Output = ()>>(
        &self,
        mut report: impl FnMut(Result<Checked, Error>) -> F,
    ) {
        let mut changes = Watch::default();
        let mut is_failing = false;
        loop {
            if is_failing {
                sleep(POLL_INTERVAL).await;
            } else {
                changes.next(POLL_INTERVAL).await;
            }
            let checked = self.ensure().await;
            let has_failed = std::mem::replace(&mut is_failing, checked.is_err());
            if has_failed || !matches!(checked, Ok(Checked::Complete | Checked::Installed)) {
                report(checked).await;
            }
            sleep(CHECK_INTERVAL_MIN).await;
        }
    }

    /// Root, this process, which checks the containers' health, and the proxy.
    async fn allowed_users(&self) -> AllowedUsers {
        let own = rustix::process::geteuid().as_raw();
        AllowedUsers::from_iter([0, own].into_iter().chain(self.proxy_uid().await))
    }

    async fn proxy_uid(&self) -> Option<u32> {
        if let Some(uid) = self.proxy_uid.get() {
            return Some(*uid);
        }
        let uid = match self.proxy_user.parse() {
            Ok(uid) => uid,
            Err(_) => look_up(&self.proxy_user).await?,
        };
        Some(*self.proxy_uid.get_or_init(|| uid))
    }
}

/// Removes the table. Returns whether there was one.
pub(crate) async fn remove(names: &Names) -> Result<bool, Error> {
    let table = names.table();
    Ok(existing(nft(&["delete", "table", "inet", &table], "").await)?.is_some())
}

/// Whether the table exists.
pub(crate) async fn exists(names: &Names) -> Result<bool, Error> {
    Ok(list(names).await?.is_some())
}

/// The table as nft lists it; `None` if there is none.
async fn list(names: &Names) -> Result<Option<String>, Error> {
    existing(nft(&["list", "table", "inet", &names.table()], "").await)
}

/// Tells a table that doesn't exist (`None`) from other failures of nft.
fn existing(result: Result<String, Error>) -> Result<Option<String>, Error> {
    match result {
        Ok(output) => Ok(Some(output)),
        Err(Error::Firewall(message)) if message.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes sure that traffic between two containers on one bridge is filtered, as Docker does at its own start.
/// Needs a bridge to exist.
pub(crate) fn ensure_bridge_filter() -> Result<Checked, Error> {
    let is_on = || std::fs::read_to_string(BRIDGE_FILTER).is_ok_and(|value| value.trim() == "1");
    if is_on() {
        return Ok(Checked::Complete);
    }
    if std::fs::write(BRIDGE_FILTER, "1").is_ok() && is_on() {
        tracing::warn!("net.bridge.bridge-nf-call-iptables was off: containers could reach each other");
        return Ok(Checked::Restored);
    }
    Err(Error::Firewall(
        "and each other's: run `modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1`"
            .into(),
    ))
}

/// The id of a user: the third field of its entry.
async fn look_up(user: &str) -> Option<u32> {
    let entry = spawn("getent", &["passwd", user], "").await.ok()?;
    String::from_utf8(entry.stdout).ok()?.split(':').nth(2)?.parse().ok()
}

async fn nft(arguments: &[&str], input: &str) -> Result<String, Error> {
    // Services often run without sbin in their PATH.
    let output = match spawn("nft", arguments, input).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            spawn("/usr/sbin/nft", arguments, input).await
        }
        other => other,
    };
    let output = output
        .map_err(|error| Error::Firewall(format!("can't run nft ({error}): install the package nftables")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().next().unwrap_or_default();
    Err(Error::Firewall(format!("nft failed ({first}): run the provisioner as root or with CAP_NET_ADMIN")))
}

async fn spawn(program: &str, arguments: &[&str], input: &str) -> io::Result<std::process::Output> {
    let mut child = Command::from(daemon::host_tool(program))
        .args(arguments)
        // nft's messages are compared.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    // what can't be listed wasn't changed by anyone.
    #[test]
    fn only_a_missing_table_counts_as_missing() {
        let failure = |text: &str| Err(Error::Firewall(format!("nft failed ({text}): run it as root")));
        assert_eq!(existing(Ok("table".into())).unwrap().as_deref(), Some("table"));
        assert_eq!(existing(failure("Error: No such file or directory")).unwrap(), None);
        for text in ["Error: cache initialization failed: Interrupted", "Operation not permitted"] {
            assert!(existing(failure(text)).is_err(), "{text}");
        }
    }

    //
    #[test]
    fn nothing_is_started_before_the_rules_are_in_place() {
        let firewall = Firewall::new(Names::new("abc234").unwrap(), PROXY_USER.into());
        assert!(matches!(firewall.require(), Err(Error::NoFirewall)));
        firewall.in_place.store(true, Ordering::Relaxed);
        firewall.require().unwrap();
    }
}
