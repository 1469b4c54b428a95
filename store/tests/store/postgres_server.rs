//! A PostgreSQL server for the test binary. It stops when the binary ends, even by SIGKILL.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Starts a server in a temporary folder, prints the folder, and stops the server when its stdin ends: the
/// kernel closes that when the test binary ends, even by SIGKILL. `pg_ctl` finds the server by its pid.
const SCRIPT: &str = r#"
    set -eu
    # If the test binary has ended meanwhile, printing fails and the trap cleans up.
    trap '' PIPE
    dir=$(mktemp -d /tmp/memgate-postgres.XXXXXX)
    trap 'rm -rf "$dir"' EXIT
    "$1/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale -N >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
    "$1/pg_ctl" -D "$dir/data" -l "$dir/log" -w -o "-k '$dir' -c listen_addresses='' -c fsync=off -c max_connections=300" \
        start >/dev/null 2>&1 </dev/null || { cat "$dir/log" >&2; exit 1; }
    trap '"$1/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1; rm -rf "$dir"' EXIT
    echo "$dir" 2>/dev/null
    cat >/dev/null
"#;

/// The server: the folder of its socket, and the shell that stops it when its stdin closes.
struct Server {
    socket: String,
    _shell: Child,
}

/// The URL of a database on the server. The first call starts the server.
pub(crate) fn url(database: &str) -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(start);
    format!("postgres://postgres@localhost/{database}?host={}", server.socket)
}

fn start() -> Server {
    let mut shell = command()
        .args(["sh", "-c", SCRIPT, "sh"])
        .arg(binaries())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell that runs PostgreSQL starts");
    let mut socket = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut socket).unwrap();
    if socket.trim().is_empty() {
        let mut log = String::new();
        shell.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        panic!("PostgreSQL doesn't start:\n{log}");
    }
    Server { socket: socket.trim().to_owned(), _shell: shell }
}

/// A command that drops root, because PostgreSQL refuses to run as root.
fn command() -> Command {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        return Command::new("env");
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let postgres = users.lines().any(|line| line.starts_with("postgres:"));
    let mut command = Command::new("runuser");
    command.args(["-u", if postgres { "postgres" } else { "nobody" }, "--"]);
    command
}

/// The folder of `initdb`: Debian does not put it into the PATH.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        std::cmp::Reverse(version.and_then(|version| version.parse::<u32>().ok()))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|bin| bin.join("initdb").is_file())
        .expect("these tests need a real PostgreSQL: install it with `apt-get install postgresql`")
}
