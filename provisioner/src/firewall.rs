//! The firewall: containers can't reach the host's ports, nor anything that the host forwards to. One nft
//! table of the installation, installed as a whole, checked at each resync, removed as a whole.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::Error;
use crate::names::Names;

/// If 1, traffic within a bridge passes the host's firewall. Docker sets it.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Installs the table unless it is complete. Returns whether it was installed.
pub(crate) async fn ensure(names: &Names) -> Result<bool, Error> {
    let table = names.table();
    let listed = nft(&["list", "table", "inet", &table], "").await;
    if listed.as_deref().is_ok_and(|listed| is_complete(names, listed)) {
        return Ok(false);
    }
    nft(&["-f", "-"], &ruleset(names)).await?;
    Ok(true)
}

/// Removes the table. Returns whether there was one.
pub(crate) async fn remove(names: &Names) -> Result<bool, Error> {
    let table = names.table();
    match nft(&["delete", "table", "inet", &table], "").await {
        Ok(_) => Ok(true),
        // There is no such table.
        Err(Error::Firewall(message)) if message.contains("No such file or directory") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks that traffic between two containers on one bridge is filtered. Needs a bridge to exist.
pub(crate) fn check_bridge_filter() -> Result<(), Error> {
    match std::fs::read_to_string(BRIDGE_FILTER) {
        Ok(value) if value.trim() == "1" => Ok(()),
        _ => Err(Error::Firewall(
            "and each other's: run `modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1`"
                .into(),
        )),
    }
}

/// The rules of each chain: containers may reply to the host, and open no connection.
fn rules(names: &Names) -> [(&'static str, String); 2] {
    let bridges = format!("\"{}*\"", names.bridge(0).trim_end_matches('0'));
    let input = format!("iifname {bridges} ct state established,related accept\niifname {bridges} drop\n");
    let forward = format!("iifname {bridges} drop\noifname {bridges} drop\n");
    [("input", input), ("forward", forward)]
}

fn ruleset(names: &Names) -> String {
    let table = names.table();
    // Create, delete, create: replaces the table in one transaction, whether or not it existed.
    let mut text = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for (hook, rules) in rules(names) {
        let head = format!("type filter hook {hook} priority filter - 10; policy accept;");
        text.push_str(&format!("chain {hook} {{\n{head}\n{rules}}}\n"));
    }
    text.push_str("}\n");
    text
}

/// Whether the list has every rule, in order. nft lists rules as they were written, if in its own format.
fn is_complete(names: &Names, listed: &str) -> bool {
    let mut lines = listed.lines().map(str::trim);
    rules(names).iter().all(|(hook, rules)| {
        let hooked = format!("type filter hook {hook} ");
        lines.any(|line| line.starts_with(&hooked))
            && rules
                .lines()
                .all(|rule| lines.next().is_some_and(|line| line == rule || is_same_rule(line, rule)))
    })
}

/// nft may list the states of a set in another order.
fn is_same_rule(line: &str, rule: &str) -> bool {
    line.replace("related,established", "established,related") == rule
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
    let mut child = Command::new(program)
        .args(arguments)
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

    const LISTED: &str = "table inet memgate_abc234 {
\tchain input {
\t\ttype filter hook input priority filter - 10; policy accept;
\t\tiifname \"mgabc234-*\" ct state established,related accept
\t\tiifname \"mgabc234-*\" drop
\t}

\tchain forward {
\t\ttype filter hook forward priority filter - 10; policy accept;
\t\tiifname \"mgabc234-*\" drop
\t\toifname \"mgabc234-*\" drop
\t}
}
";

    #[test]
    fn every_missing_rule_is_noticed() {
        let names = Names::new("abc234").unwrap();
        assert!(is_complete(&names, LISTED));
        assert!(!is_complete(&Names::new("abc235").unwrap(), LISTED));
        let rules = LISTED.lines().filter(|line| line.contains("iifname") || line.contains("hook"));
        for rule in rules {
            let damaged: String = LISTED.replacen(&format!("{rule}\n"), "", 1);
            assert!(!is_complete(&names, &damaged), "without {rule}");
        }
        let with_accept = LISTED.replacen("\t\tiifname", "\t\taccept\n\t\tiifname", 1);
        assert!(!is_complete(&names, &with_accept), "with a rule in front");
    }
}
