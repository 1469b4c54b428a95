//! The snippets of the page Connect, as a user sees them, run with a real token against a real cache: with TLS, with a client
//! certificate, through stunnel and without TLS. tests/README.md says which libraries can't be installed for this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::client_libraries::tool;
use crate::documents::{Background, program};
use crate::harness::{Credentials, Product, deadline_in, wait_until};

/// Those whose libraries come from neither Debian, PyPI, npm nor crates.io, or can't be set up for a test.
const NOT_RUN: [&str; 5] =
    ["dotnet-enyim", "go-mc", "java-xmemcached", "spring-spymemcached", "wordpress-litespeed"];
/// Ways that Debian's version of a library doesn't have.
const WAYS_NOT_RUN: [(&str, &str); 1] = [("go-gomemcache", "certificate")];
const WAYS: [&str; 5] = ["tls", "certificate", "stunnel", "stunnel-certificate", "plain"];

/// A browser that is signed in, and a folder with the files that the page tells a user to save.
struct Reader<'a> {
    product: &'a Product,
    folder: PathBuf,
    credentials: Credentials,
    /// Address of the cache's page.
    cache: String,
}

/// Code of a snippet as the page shows it, with the placeholders of the token replaced.
struct Shown<'a> {
    reader: &'a Reader<'a>,
    id: &'a str,
    way: &'a str,
    code: String,
    usage: String,
}

impl<'a> Reader<'a> {
    fn new(product: &'a Product) -> Self {
        let credentials = product.add_user("ada@example.org");
        let folder = product.dir().join("reader");
        fs::create_dir(&folder).unwrap();
        fs::copy(product.data().join("ca.pem"), folder.join("memgate-ca.pem")).unwrap();
        let out = folder.display().to_string();
        product.json(&["token", "certify", &credentials.username, "--certificate-out", &out]);
        for extension in ["pem", "key"] {
            let issued = folder.join(format!("{}.{extension}", credentials.username));
            fs::rename(issued, folder.join(format!("client.{extension}"))).unwrap();
        }
        let mut reader = Self { product, folder, credentials, cache: String::new() };
        reader.sign_in();
        reader
    }

    fn curl(&self, path: &str, fields: &[String]) -> String {
        let mut curl = Command::new("curl");
        let jar = self.folder.join("cookies");
        curl.args(["--silent", "--show-error", "--location"])
            .arg("--cookie")
            .arg(&jar)
            .arg("--cookie-jar")
            .arg(&jar);
        for field in fields {
            curl.args(["--data-urlencode", field]);
        }
        let output = curl.arg(format!("http://{}{path}", self.product.web())).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn sign_in(&mut self) {
        let mut set = self.product.memgate(&["user", "reset-password", &self.credentials.email, "--json"]);
        let printed: serde_json::Value = serde_json::from_slice(&set.output().unwrap().stdout).unwrap();
        let password = printed["password"].as_str().unwrap();
        self.product.register_secret(password);
        let page = self.curl("/sign-in", &[]);
        let (_, token) = page.split_once("name=\"csrf_token\" value=\"").unwrap();
        let token = token.split('"').next().unwrap();
        let fields = [("csrf_token", token), ("email", &self.credentials.email), ("password", password)];
        let page = self.curl("/sign-in", &fields.map(|(name, value)| format!("{name}={value}")));
        let (_, cache) = page.split_once("data-events-url=\"").unwrap_or_else(|| panic!("{page}"));
        self.cache = cache.split("/events").next().unwrap().to_owned();
    }

    fn connect(&self, query: &str) -> String {
        self.curl(&format!("{}/connect{query}", self.cache), &[])
    }

    /// Ids of all snippets: those to which the pages of all languages and frameworks link.
    fn ids(&self) -> BTreeSet<String> {
        let links = |page: String| -> BTreeSet<String> {
            let found = page.split("/connect?with=").skip(1);
            found.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let mut ids = links(self.connect(""));
        for id in ids.clone() {
            ids.extend(links(self.connect(&format!("?with={id}"))));
        }
        ids
    }

    /// The text of an element of a page, as a user copies it, with the token.
    fn text(&self, page: &str, element: &str) -> Option<String> {
        let (_, rest) = page.split_once(&format!("id=\"{element}\""))?;
        let text = rest.split_once('>')?.1.split_once('<')?.0;
        let text = [
            ("&#34;", "\""),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&#60;", "<"),
            ("&#62;", ">"),
            ("&#38;", "&"),
            ("&amp;", "&"),
        ]
        .iter()
        .fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character));
        let Credentials { username, password, .. } = &self.credentials;
        Some(text.replace("YOUR_USERNAME", username).replace("YOUR_PASSWORD", password) + "\n")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Shown<'_> {
    /// Runs it with its library.
    fn run(&self) -> Output {
        let Self { reader, code, usage, .. } = self;
        let (language, _) = self.id.split_once('-').unwrap();
        let mut command = match language {
            "shell" => {
                let mut bash =
                    command("bash", &reader.write("main.sh", &format!("set -eo pipefail\n{code}")));
                let tools = testkit::memcached_tool().parent().unwrap().display().to_string();
                bash.env("PATH", format!("{}:{tools}", std::env::var("PATH").unwrap()));
                bash
            }
            "python" => command(python(), &reader.write("main.py", code)),
            "flask" => command(python(), &reader.write("main.py", &format!("{code}{usage}"))),
            "django" => {
                reader.write(
                    "settings.py",
                    &format!("from pathlib import Path\nBASE_DIR = Path(__file__).parent\n{code}"),
                );
                let start =
                    "import os, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\ndjango.setup()\n";
                command(python(), &reader.write("main.py", &format!("{start}{usage}")))
            }
            "ruby" => command("ruby", &reader.write("main.rb", code)),
            "rails" => command("ruby", &reader.write("main.rb", &rails(code, usage))),
            "php" => command("php", &reader.write("main.php", code)),
            "symfony" => command("php", &reader.write("main.php", &symfony(code, usage))),
            "laravel" => command("php", &reader.write("main.php", &laravel(code, usage))),
            "go" => {
                let mut go = Command::new("go");
                // Debian's libraries, without the network.
                go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
                go.env("GOCACHE", reader.folder.join("go-cache"));
                go.arg("run").arg(reader.write("main.go", code));
                go
            }
            "node" => command("node", &reader.write("main.js", code)),
            "java" => {
                let mut java = Command::new("java");
                java.args(["-cp", "/usr/share/java/spymemcached.jar"]).arg(reader.write("Hello.java", code));
                java
            }
            "rust" => self.rust(),
            _ => panic!("don't know how to run {}", self.id),
        };
        command.env("NODE_PATH", tool("MEMGATE_TEST_NODE_MODULES", "target/tools/node/node_modules"));
        if self.id == "python-python-memcached" {
            let folder = tool("MEMGATE_TEST_PYTHON_MEMCACHED", "target/tools/python-memcached");
            command.env("PYTHONPATH", folder);
        }
        // For pip's pylibmc, as the note on the page says.
        command.env("SASL_PATH", format!("/usr/lib/{}-linux-gnu/sasl2", std::env::consts::ARCH));
        command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&reader.folder).output().unwrap()
    }

    fn rust(&self) -> Command {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/rust");
        for name in ["Cargo.toml", "Cargo.lock"] {
            fs::copy(own.join(name), self.reader.write(name, "")).unwrap();
        }
        self.reader.write("src/main.rs", &self.code);
        let mut cargo = Command::new("cargo");
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"));
        cargo.args(["run", "--quiet", "--locked", "--target-dir"]).arg(target.join("tools/rust"));
        cargo
    }
}

fn command(program: impl AsRef<std::ffi::OsStr>, script: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(script);
    command
}

fn python() -> PathBuf {
    tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python")
}

/// Rails' part of it: `config.cache_store` becomes `Rails.cache`.
fn rails(code: &str, usage: &str) -> String {
    format!(
        "require \"active_support\"\nrequire \"active_support/cache\"\nrequire \"openssl\"\nrequire \"pathname\"\n\
         module Rails; class << self; attr_accessor :cache; def root = Pathname.new(__dir__); end; end\n\
         config = Struct.new(:cache_store).new\n{code}\n\
         Rails.cache = ActiveSupport::Cache.lookup_store(*config.cache_store)\n{usage}"
    )
}

/// Symfony's part of it: the provider becomes an adapter.
fn symfony(code: &str, usage: &str) -> String {
    let (_, provider) = code.split_once("default_memcached_provider: '").unwrap();
    let provider = provider.split('\'').next().unwrap();
    format!(
        "<?php\nrequire '/usr/share/php/Symfony/Component/Cache/autoload.php';\n\
         use Symfony\\Component\\Cache\\Adapter\\MemcachedAdapter;\n\
         $cache = new MemcachedAdapter(MemcachedAdapter::createConnection('{provider}'));\n{usage}"
    )
}

/// Laravel's part of it: the settings of `.env`, as config/cache.php of a new application reads them, and the facade.
fn laravel(code: &str, usage: &str) -> String {
    let value = |name: &str| {
        let found = code.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{name} is missing: {code}"))
    };
    let [store, host, port, username, password] =
        ["CACHE_STORE", "MEMCACHED_HOST", "MEMCACHED_PORT", "MEMCACHED_USERNAME", "MEMCACHED_PASSWORD"]
            .map(value);
    format!(
        "<?php\nrequire 'Illuminate/Container/autoload.php';\nrequire 'Illuminate/Cache/autoload.php';\n\
         $app = new Illuminate\\Container\\Container();\n\
         $app['config'] = new Illuminate\\Support\\Fluent([\n\
             'cache.default' => '{store}', 'cache.prefix' => '',\n\
             'cache.stores.memcached' => [\n\
                 'driver' => 'memcached', 'persistent_id' => null, 'sasl' => ['{username}', '{password}'],\n\
                 'options' => [], 'servers' => [['host' => '{host}', 'port' => '{port}', 'weight' => 100]]]]);\n\
         (new Illuminate\\Cache\\CacheServiceProvider($app))->register();\n\
         Illuminate\\Support\\Facades\\Facade::setFacadeApplication($app);\n{usage}"
    )
}

/// Starts stunnel with the page's configuration, but on a free port. Returns it with the port.
fn stunnel(reader: &Reader, page: &str, way: &str, id: &str) -> Option<(Background, u16)> {
    let config = reader.text(page, &format!("{way}-conf-{id}"))?;
    let accept = testkit::free_port();
    let file = reader.write("memgate.conf", &config.replace("127.0.0.1:11210", &accept.to_string()));
    let stunnel = program("/usr/bin/stunnel4", "stunnel4", &reader.folder);
    let log = fs::File::create(reader.folder.join("stunnel.log")).unwrap();
    let process = Command::new(stunnel).arg(file).current_dir(&reader.folder).stderr(log).spawn().unwrap();
    let process = Background(process);
    wait_until(deadline_in(10), "stunnel listens", || TcpStream::connect(accept).is_ok());
    Some((process, accept.port()))
}

#[test]
fn snippets_store_and_read_as_the_page_shows_them() {
    let product = Product::start_with(&[]);
    let reader = Reader::new(&product);
    let ids = reader.ids();
    let mut ways_run: BTreeMap<&str, usize> = BTreeMap::new();
    for not_run in NOT_RUN {
        assert!(ids.contains(not_run), "{not_run} isn't on the page");
    }
    for id in ids.iter().filter(|id| !NOT_RUN.contains(&id.as_str())) {
        let page = reader.connect(&format!("?with={id}"));
        let usage = reader.text(&page, &format!("usage-{id}")).unwrap_or_default();
        for way in WAYS {
            let Some(mut code) = reader.text(&page, &format!("{way}-{id}")) else { continue };
            if WAYS_NOT_RUN.contains(&(id, way)) {
                continue;
            }
            let stunnel = stunnel(&reader, &page, way, id);
            assert_eq!(stunnel.is_some(), way.starts_with("stunnel"), "{id}, {way}");
            if let Some((_, port)) = &stunnel {
                code = code.replace("11210", &port.to_string());
            }
            let mut check = product.memgate(&["cache", "flush", &reader.credentials.email]);
            assert!(check.output().unwrap().status.success());
            let shown = Shown { reader: &reader, id, way, code, usage: usage.clone() };
            let output = shown.run();
            let (stdout, stderr) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let place = format!("{id}, {}:\n{}{}\n{stdout}\n{stderr}", shown.way, shown.code, shown.usage);
            assert!(output.status.success() && stdout.lines().any(|line| line == "world"), "{place}");
            *ways_run.entry(way).or_default() += 1;
        }
    }
    assert!(WAYS.iter().all(|way| ways_run.get(way).is_some_and(|count| *count >= 5)), "{ways_run:?}");
}
