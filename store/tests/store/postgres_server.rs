//! A PostgreSQL server of our own: one for the test binary, gone when the binary ends, however it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Makes a server in a folder of its own, says where on stdout, and waits for the end of its stdin: the
/// kernel closes that when the test binary ends, even by SIGKILL. `pg_ctl` stops by the server's pid.
const KEEPER: &str = r#"
    set -eu
    # If the test binary has gone meanwhile, saying so fails and the trap cleans up.
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

/// The server: the folder of its socket, and the keeper whose stdin we hold open.
struct Server {
    socket: String,
    _keeper: Child,
}

/// The URL of a database on the server, which starts with the first call.
pub(crate) fn url(database: &str) -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(start);
    format!("postgres://postgres@localhost/{database}?host={}", server.socket)
}

fn start() -> Server {
    let mut keeper = keeper()
        .args(["sh", "-c", KEEPER, "sh"])
        .arg(binaries())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell that keeps PostgreSQL starts");
    let mut socket = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut socket).unwrap();
    if socket.trim().is_empty() {
        let mut log = String::new();
        keeper.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        panic!("PostgreSQL doesn't start:\n{log}");
    }
    Server { socket: socket.trim().to_owned(), _keeper: keeper }
}

/// PostgreSQL refuses to run as root: then it runs as a user who may do nothing else.
fn keeper() -> Command {
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

/// Where `initdb` is: Debian keeps it out of the PATH.
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
