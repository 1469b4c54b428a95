//! The Debian package: what it holds, and a machine with systemd and Docker on which it is installed, configured, used,
//! upgraded, removed and purged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{MEMGATE, is_root};
use crate::machine::Machine;

/// What lintian says of a package that isn't one of Debian's own.
const SUPPRESSED: &str =
    "initial-upload-closes-no-bugs,description-synopsis-starts-with-article,non-standard-file-perm";
/// Prints the process id of the service of a proxy that runs alone.
const LONE_PID: &str = "systemctl show --property MainPID --value memgate-proxy";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Packs the program that is tested.
fn package(folder: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/package");
    let printed = run(script.to_str().unwrap(), &["--binary", MEMGATE, folder.to_str().unwrap()]);
    PathBuf::from(printed.lines().last().unwrap())
}

fn contents_are_complete(package: &str) {
    let contents = run("dpkg-deb", &["--contents", package]);
    for (file, access) in [
        ("./usr/bin/memgate", "-rwxr-xr-x"),
        ("./usr/lib/systemd/system/memgate.service", "-rw-r--r--"),
        ("./usr/lib/systemd/system/memgate-proxy.service", "-rw-r--r--"),
        ("./usr/lib/systemd/system/memgate-backup.service", "-rw-r--r--"),
        ("./usr/lib/systemd/system/memgate-backup.timer", "-rw-r--r--"),
        ("./usr/share/man/man1/memgate.1.gz", "-rw-r--r--"),
        ("./usr/share/bash-completion/completions/memgate", "-rw-r--r--"),
        ("./usr/share/zsh/vendor-completions/_memgate", "-rw-r--r--"),
        ("./usr/share/fish/vendor_completions.d/memgate.fish", "-rw-r--r--"),
        ("./usr/share/doc/memgate/settings.md", "-rw-r--r--"),
        // It may contain passwords.
        ("./etc/memgate/memgate.toml", "-rw-r-----"),
    ] {
        let line = contents.lines().find(|line| line.ends_with(&format!(" {file}")));
        let line = line.unwrap_or_else(|| panic!("{file} is missing:\n{contents}"));
        assert!(line.starts_with(access) && line.contains(" 0/0 "), "{line}");
    }
    let control = run("dpkg-deb", &["--info", package]);
    for line in
        ["Package: memgate", "nftables", "Recommends: docker.io", "conffiles", "postinst", "prerm", "postrm"]
    {
        assert!(control.contains(line), "{line}: {control}");
    }
    run("lintian", &["--allow-root", "--fail-on", "error,warning", "--suppress-tags", SUPPRESSED, package]);
}

/// What the user of a cache does, with bash alone: logs in, and runs requests.
fn client(machine: &Machine, requests: &str) -> String {
    client_at(machine, 11211, requests)
}

fn client_at(machine: &Machine, port: u16, requests: &str) -> String {
    machine.succeed(&format!(
        "cd /root; TOKEN=$(jq -r .token ada.json); exec 3<>/dev/tcp/127.0.0.1/{port}; \
         printf 'set auth 0 0 %d\\r\\n%s\\r\\n{requests}quit\\r\\n' ${{#TOKEN}} \"$TOKEN\" >&3; cat <&3"
    ))
}

fn is_ready(machine: &Machine) {
    // Without an option: commands find the service's data and settings.
    let status = machine.succeed("cd /; memgate status --json");
    assert!(status.contains("\"ready\": true"), "{status}");
}

/// Starts a proxy that runs alone, with its unit, and changes its settings. It uses the data directory, because this machine has no
/// PostgreSQL. Returns its process id.
fn start_lone_proxy(machine: &Machine) -> String {
    machine.succeed(
        "printf '[proxy]\\nlisten = \"127.0.0.1:11212\"\\nhealth = \"127.0.0.1:9161\"\\n' > /etc/memgate/proxy.toml; \
         mkdir /etc/systemd/system/memgate-proxy.service.d; \
         printf '[Service]\\nExecStart=\\nExecStart=memgate proxy --data /var/lib/memgate --config /etc/memgate/proxy.toml\\n\
         ReadWritePaths=/var/lib/memgate\\nSupplementaryGroups=memgate\\n' > /etc/systemd/system/memgate-proxy.service.d/data.conf; \
         systemctl daemon-reload; systemctl start memgate-proxy.service",
    );
    machine
        .succeed("ps -o user= -p $(systemctl show --property MainPID --value memgate-proxy) | grep memgate");
    let pid = machine.succeed(LONE_PID);
    machine.succeed("echo 'connections = 777' >> /etc/memgate/proxy.toml; systemctl reload memgate-proxy");
    wait_for_upgrade_of_lone_proxy(machine, 1);
    let kept = client_at(machine, 11212, "get greeting\\r\\n");
    assert_eq!(kept, "STORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n");
    pid
}

/// The upgrade of the package has upgraded it, too. Stops it.
fn lone_proxy_was_upgraded(machine: &Machine, pid: &str) {
    wait_for_upgrade_of_lone_proxy(machine, 2);
    assert_eq!(machine.succeed(LONE_PID), pid);
    let result = "systemctl stop memgate-proxy; systemctl show --property Result --value memgate-proxy";
    assert_eq!(machine.succeed(result), "success\n");
}

/// Waits until the journal of that proxy says that it was upgraded, for the given number of times.
fn wait_for_upgrade_of_lone_proxy(machine: &Machine, times: usize) {
    let count = "journalctl --unit memgate-proxy | grep --count \" upgraded \"";
    machine.succeed(&format!("timeout 60 sh -c 'until [ \"$({count})\" -ge {times} ]; do sleep 0.1; done'"));
}

// F-38.
#[test]
fn package_is_installed_used_upgraded_removed_and_purged() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    contents_are_complete(package.to_str().unwrap());

    let machine = Machine::start();
    machine.copy(&package, "/root/memgate.deb");
    let install = "cd /root; DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes ./memgate.deb";
    let printed = machine.succeed(&format!("apt-get -qq update; {install}"));
    assert!(printed.contains("systemctl enable --now memgate.service"), "{printed}");
    // Nothing runs, now or after a reboot, before somebody has chosen settings.
    for state in ["is-active", "is-enabled"] {
        let output = machine.run(&format!("systemctl {state} memgate.service memgate-backup.timer"));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said == "inactive\ninactive\n" || said == "disabled\ndisabled\n", "{said}");
    }
    machine.succeed(
        "id memgate-proxy | grep 'groups=.*memgate-proxy'; id memgate-webui; ! test -e /var/lib/memgate",
    );

    machine.succeed(
        "sed -i 's/^#endpoint = .*/endpoint = \"127.0.0.1:11211\"/' /etc/memgate/memgate.toml; \
         printf 'ready_instances = 0\\n' >> /etc/memgate/memgate.toml; \
         systemctl enable --now memgate.service memgate-backup.timer",
    );
    is_ready(&machine);
    let checked = machine.succeed("cd /; memgate config check --json");
    assert!(checked.contains("\"ready_instances\": 0"), "/etc/memgate/memgate.toml counts: {checked}");
    machine.succeed("cd /root; memgate user add ada@example.org --json > ada.json");
    let stored = client(&machine, "set greeting 0 0 5\\r\\nhello\\r\\nget greeting\\r\\n");
    assert_eq!(stored, "STORED\r\nSTORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n");
    machine.succeed("systemctl reload memgate; systemctl start memgate-backup.service");
    let backups = machine.succeed("ls -l /var/backups/memgate");
    assert!(backups.contains("-rw------- 1 root root"), "{backups}");
    let backed_up = machine.succeed("tar -xOf /var/backups/memgate/*.tar memgate.toml");
    assert!(backed_up.contains("ready_instances = 0"), "{backed_up}");

    let lone = start_lone_proxy(&machine);

    // An upgrade hands over to the new program, in the same process.
    let pid = "systemctl show --property MainPID --value memgate";
    let inode =
        "stat --dereference --format %i /proc/$(systemctl show --property MainPID --value memgate)/exe";
    let before = (machine.succeed(pid), machine.succeed(inode));
    let printed = machine.succeed("dpkg --install /root/memgate.deb; systemctl is-active memgate.service");
    assert!(!printed.contains("goes on"), "{printed}");
    assert_eq!(machine.succeed(pid), before.0);
    assert_ne!(machine.succeed(inode), before.1);
    is_ready(&machine);
    lone_proxy_was_upgraded(&machine, &lone);
    let kept = client(&machine, "get greeting\\r\\n");
    assert_eq!(kept, "STORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n");

    let printed = machine.succeed("apt-get -qq remove --yes memgate");
    assert!(printed.contains("caches keep running"), "{printed}");
    machine
        .succeed("! systemctl is-active memgate.service; ! pgrep memgate; test -e /etc/memgate/memgate.toml");
    let running = "docker ps --quiet --filter label=memgate=$(cat /var/lib/memgate/installation.id) | grep .";
    machine.succeed(running);
    let printed = machine.succeed("apt-get -qq purge --yes memgate");
    for part in
        ["/var/lib/memgate stays", "docker ps --all --filter label=memgate=", "/var/backups/memgate stays"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    machine.succeed(&format!("! test -e /etc/memgate; test -e /var/lib/memgate/token.key; {running}"));

    // Installed again, it goes on with the data.
    machine.succeed(&format!("{install}; systemctl enable --now memgate.service"));
    let kept = client(&machine, "get greeting\\r\\n");
    assert_eq!(kept, "STORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n");
}
