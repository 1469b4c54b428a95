//! README and docs: their shell, Python and PHP blocks run as they are written, in one folder and in their order.
//!
//! What differs from a reader's machine is the ports, which `Installation` chooses. Blocks with `sudo` run as root; the others
//! run as a user without any rights, and then as root, whose variables the next block finds.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use crate::client_libraries::tool;
use crate::harness::{Credentials, MEMGATE, Product, deadline_in, is_root, wait_until};
use crate::text_client::TextClient;

/// nobody.
const UNPRIVILEGED: u32 = 65_534;

/// A fenced block of a document.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Block {
    /// Writes it to a folder, for this product's ports and the commands of that folder, and returns the script that runs it
    /// with the variables of those before it. With `export`, the next one finds its variables, too.
    pub(crate) fn script(&self, product: &Product, folder: &Path, export: bool) -> String {
        let file = format!("block.{}", self.language);
        let (endpoint, web) = (product.endpoint(), product.web().to_string());
        let text = self
            .text
            .replace("127.0.0.1:11211", &endpoint.to_string())
            .replace("127.0.0.1/11211", &format!("127.0.0.1/{}", endpoint.port()))
            .replace("\"127.0.0.1\", 11211", &format!("\"127.0.0.1\", {}", endpoint.port()))
            .replace("127.0.0.1:8080", &web)
            .replace("/var/backups", &folder.join("backups").display().to_string())
            .replace("/usr/local/bin", &folder.join("bin").display().to_string());
        fs::write(folder.join(&file), text).unwrap();
        let load = "set -eo pipefail; [ -e variables ] || : > variables; . ./variables";
        match (self.language.as_str(), export) {
            ("python", _) => format!("{load}; python3 {file}"),
            ("php", _) => format!("{load}; php {file}"),
            (_, true) => format!("{load}; . ./{file}; umask 022; export -p > variables"),
            (_, false) => format!("{load}; . ./{file}"),
        }
    }
}

pub(crate) fn read(document: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap()
}

/// The blocks that are shell, Python or PHP.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    found.retain(|block| ["sh", "python", "php"].contains(&block.language.as_str()));
    found
}

/// The machine of someone who follows the documents: a folder in which `./deploy/up` was started.
struct Reader<'a> {
    product: &'a Product,
    folder: PathBuf,
}

impl<'a> Reader<'a> {
    fn new(product: &'a Product) -> Self {
        let folder = product.dir().to_path_buf();
        // A folder in the home of a user who may use sudo.
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        chown(&folder, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        let (bin, release) = (folder.join("bin"), folder.join("target/release"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(&release).unwrap();
        symlink(MEMGATE, release.join("memgate")).unwrap();
        let python = tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python");
        let python = format!("#!/bin/sh\nexec {} \"$@\"\n", python.display());
        // The test is root already.
        for (name, script) in [("python3", python.as_str()), ("sudo", "#!/bin/sh\nexec \"$@\"\n")] {
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), Permissions::from_mode(0o755)).unwrap();
        }
        Self { product, folder }
    }

    /// Runs a block after those before it, whose variables it sees.
    fn run(&self, block: &Block, as_root: bool) -> Output {
        let script = block.script(self.product, &self.folder, as_root);
        let mut command = self.product.memgate(&[]);
        let memgate = command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)));
        let variables: Vec<_> = memgate.filter_map(|(name, value)| Some((name, value?))).collect();
        command = if as_root { Command::new("bash") } else { Command::new("setpriv") };
        if !as_root {
            let (user, group) = (format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}"));
            command.args([&user, &group, "--clear-groups", "bash"]);
        }
        let path = format!("{}/bin:{}", self.folder.display(), std::env::var("PATH").unwrap());
        command.args(["-c", &script]).current_dir(&self.folder).envs(variables);
        // As a reader has it: the data directory is ./data.
        command.env_remove("MEMGATE_DATA").env("PATH", path).env("HOME", &self.folder).output().unwrap()
    }

    /// An interpreter in root's home, say, is root's alone.
    fn may_everybody_run_python(&self) -> bool {
        let trial = Block { language: "python".to_owned(), text: "import bmemcached\n".to_owned() };
        self.run(&trial, false).status.success()
    }

    /// Runs all blocks of a document, and returns what they printed.
    fn follow(&self, document: &str) -> String {
        let mut printed = String::new();
        for block in blocks(&read(document)) {
            let needs_root = block.text.contains("sudo ")
                || (block.language == "python" && !self.may_everybody_run_python());
            for as_root in [false, true] {
                if needs_root && !as_root {
                    continue;
                }
                let output = self.run(&block, as_root);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{document}, as root: {as_root}:\n{}\n{stderr}", block.text);
                printed.push_str(&String::from_utf8_lossy(&output.stdout));
                self.leave_files_to_everybody();
            }
        }
        printed
    }

    /// A reader has one user: the files of both users here belong to either.
    fn leave_files_to_everybody(&self) {
        for name in
            ["notes.txt", "ca.pem", "shop", "shop/client.pem", "shop/client.key", "office.key", "office.csr"]
        {
            let path = self.folder.join(name);
            if path.exists() {
                chown(&path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
            }
        }
    }
}

#[test]
fn blocks_of_the_documents_run_as_they_are_written() {
    if !is_root() {
        return;
    }
    let product = Product::start_at(crate::harness::Installation::with_sqlite());
    let reader = Reader::new(&product);
    let printed = reader.follow("README.md");
    let secret = |name: &str| -> String {
        let text = fs::read_to_string(reader.folder.join("ada.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[name].as_str().unwrap().to_owned()
    };
    product.register_secret(&secret("password"));
    // The text login, twice; with TLS, twice; and both Python clients.
    assert!(printed.contains("VALUE greeting 0 5\r\nhello\r\nEND"), "{printed}");
    assert!(printed.matches("hello").count() >= 8, "{printed}");
    let certificate = fs::read_to_string(reader.folder.join("office.pem")).unwrap();
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{certificate}");
    let shown = product.json(&["token", "show", &secret("username")]);
    assert!(shown["revoked_at"].is_i64(), "the last block reports the token as leaked");
    // docs/clients.md goes on with the variables of README.
    let ada = product.credentials(&["token", "create", "ada@example.org"]);
    let variables = format!("export CACHE_USERNAME={} CACHE_PASSWORD={}\n", ada.username, ada.password);
    fs::write(reader.folder.join("variables"), variables).unwrap();
    let printed = reader.follow("docs/clients.md");
    assert!(printed.matches("hello").count() >= 3, "pylibmc, and PHP for both users: {printed}");
    stunnel_carries_a_client(&product, &ada);
    reader.follow("docs/operating.md");
    backup_is_complete_and_root_alone_may_read_it(&reader.folder.join("backups/memgate"));
}

// R-45.
fn backup_is_complete_and_root_alone_may_read_it(folder: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(folder), 0o700);
    let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [backup] = entries.as_slice() else { panic!("one file, no draft: {entries:?}") };
    assert_eq!(mode(backup), 0o600, "{}", backup.display());
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").arg("--file").arg(backup).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let listed = String::from_utf8(tar(&["--list"])).unwrap();
    let names: Vec<&str> = listed.lines().collect();
    let expected =
        ["manifest.json", "installation.id", "token.key", "lane.key", "ca.pem", "ca.key", "memgate.db"];
    assert_eq!(names, expected);
    let database = folder.join("database");
    fs::write(&database, tar(&["--extract", "--to-stdout", "memgate.db"])).unwrap();
    let query = |sql: &str| {
        let output = Command::new("sqlite3").arg(&database).arg(sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // What the document does with the database that a backup replaces.
    assert!(!query("SELECT id FROM tokens WHERE revoked_at IS NOT NULL").is_empty());
    query("SELECT actor, action, subject, detail FROM audit WHERE seq >= (SELECT MAX(seq) FROM audit)");
}

#[test]
fn documents_name_commands_that_exist() {
    let program = crate::harness::Installation::with_sqlite();
    for document in ["README.md", "docs/operating.md", "docs/clients.md"] {
        for line in
            read(document).lines().filter_map(|line| line.split_once("memgate ").map(|(_, rest)| rest))
        {
            let words: Vec<&str> = line.split([' ', '`']).take(2).collect();
            let [family, names] = words[..] else { continue };
            let families = [
                "user",
                "cache",
                "token",
                "api-key",
                "plan",
                "instance",
                "connection",
                "audit",
                "config",
                "image",
            ];
            if !families.contains(&family) {
                continue;
            }
            for name in names.split('|').filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())) {
                let output = program.run(&[family, name, "--help"]);
                assert!(output.status.success(), "{document}: memgate {family} {name}");
            }
        }
    }
}

/// A program of this machine, or of the distribution's package, unpacked and not installed: its service would take a port.
/// `./deploy/test` unpacks them once.
pub(crate) fn program(path: &str, package: &str, dir: &Path) -> PathBuf {
    let servers = std::env::var_os("MEMGATE_TEST_SERVERS").map(PathBuf::from);
    let servers =
        servers.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/servers"));
    let unpacked = servers.join(path.trim_start_matches('/'));
    if let Some(found) = [Path::new(path), &unpacked].into_iter().find(|path| path.exists()) {
        return found.to_path_buf();
    }
    let fetch = "apt-get -qq -o APT::Sandbox::User=root download \"$0\" && dpkg -x \"$0\"_*.deb .";
    let fetched = Command::new("sh").args(["-c", fetch, package]).current_dir(dir).status().unwrap();
    assert!(fetched.success(), "can't download {package}: try apt-get update");
    dir.join(path.trim_start_matches('/'))
}

/// The fenced block of a language in a document.
pub(crate) fn fenced(document: &str, language: &str) -> String {
    let text = read(document);
    let (_, block) = text.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// A process that is killed in the end.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// stunnel with the example's configuration speaks TLS for a client that can't.
fn stunnel_carries_a_client(product: &Product, ada: &Credentials) {
    let dir = tempfile::tempdir().unwrap();
    let accept = testkit::free_port();
    let config = fenced("docs/clients.md", "ini")
        .replace("127.0.0.1:11210", &accept.to_string())
        .replace("cache.example.org:11211", &product.endpoint().to_string())
        .replace("/etc/stunnel/ca.pem", &product.data().join("ca.pem").display().to_string())
        .replace("checkHost = cache.example.org", "checkIP = 127.0.0.1");
    let file = dir.path().join("memgate.conf");
    fs::write(&file, config).unwrap();
    let stunnel = program("/usr/bin/stunnel4", "stunnel4", dir.path());
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let _stunnel = Background(Command::new(stunnel).arg(&file).stderr(log).spawn().unwrap());
    let listens = || std::net::TcpStream::connect(accept).is_ok();
    wait_until(deadline_in(10), "stunnel listens", listens);
    assert_eq!(TextClient::log_in(accept, ada).set("greeting", b"through stunnel"), "STORED");
}
