//! Settings: defaults, then memgate.toml, then `MEMGATE_*`, then `--set`. Later ones take precedence; unknown
//! keys are errors.

mod file;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use daemon::telemetry::LogFormat;
use figment::error::{Actual, Kind};
use figment::providers::{Env, Serialized};
use figment::value::Value;
use figment::{Figment, Source};
use serde::{Deserialize, Serialize};
use store::{Database, StoreOptions};

use crate::global_args::GlobalArgs;
use crate::output::CliError;

pub(crate) use self::file::SettingsFile;

/// The setting of the endpoint, on which each of the proxy's threads that accept has a socket.
pub(crate) const PROXY_LISTEN: &str = "proxy.listen";
/// Where the data directory has the database: a folder that holds nothing but SQLite's files.
pub(crate) const DATABASE_FOLDER: &str = "db";
pub(crate) const DATABASE_NAME: &str = "memgate.db";
/// One connection follows the changes, the others do everything else.
const CONNECTIONS_MIN: u32 = 2;

/// All sections of memgate.toml.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) store: StoreSettings,
    pub(crate) log: LogSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) proxy: proxy::Config,
    pub(crate) provisioner: provisioner::Config,
    pub(crate) webui: webui::Config,
}

/// The section `[store]`: which database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSettings {
    /// SQLite database file; a relative path is relative to the data directory. Root opens it only in a folder that no
    /// unprivileged role may write.
    pub(crate) path: PathBuf,
    /// PostgreSQL instead of SQLite: `postgres://user:password@host/database`.
    pub(crate) url: Option<String>,
    /// Maximum number of connections of each role to PostgreSQL; one of them follows the changes.
    pub(crate) connections: u32,
}

/// The section `[log]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// Log filter in the form of `RUST_LOG`: "info", "proxy=debug,info".
    pub(crate) filter: String,
    /// "text" or "json".
    pub(crate) format: LogFormat,
}

/// The section `[limits]`: limits of one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitSettings {
    /// Maximum number of caches of one user.
    pub(crate) caches_per_user: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { caches_per_user: 3 }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            path: Path::new(DATABASE_FOLDER).join(DATABASE_NAME),
            url: None,
            connections: StoreOptions::CONNECTIONS_DEFAULT,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: daemon::telemetry::default_filter(0), format: LogFormat::Text }
    }
}

impl Settings {
    /// Reads the settings that this command line names.
    ///
    /// # Errors
    /// If a file can't be read, a key is unknown or a value is invalid.
    pub(crate) fn load(global: &GlobalArgs) -> Result<Self, CliError> {
        let mut given = Figment::new();
        let file = SettingsFile::find(global)?;
        if let Some(file) = &file {
            given = given.merge(file);
        }
        given = given.merge(environment());
        for pair in &global.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CliError::usage(format!("--set {pair} has no value"), "write --set KEY=VALUE")
            })?;
            let value: Value = value.parse().unwrap_or_else(|never| match never {});
            given = given.merge((key, value));
        }
        let endpoint_given = given.contains("webui.endpoint");
        let filter_given = given.contains("log.filter");
        let defaults = Serialized::defaults(Self::default());
        let mut settings: Self =
            Figment::from(defaults).merge(given).extract().map_err(|error| explain(&error, file.as_ref()))?;
        if global.verbose > 0 && !filter_given {
            settings.log.filter = daemon::telemetry::default_filter(global.verbose);
        }
        if settings.store.connections < CONNECTIONS_MIN {
            let what = format!("invalid setting store.connections ({})", settings.store.connections);
            return Err(CliError::new(what, format!("set it to {CONNECTIONS_MIN} or more")));
        }
        if !endpoint_given {
            settings.webui.endpoint = local_address(settings.proxy.listen).to_string();
        }
        Ok(settings)
    }

    /// The listeners of all roles, each with its setting.
    pub(crate) fn listeners(&self) -> [(&'static str, SocketAddr); 5] {
        [
            (PROXY_LISTEN, self.proxy.listen),
            ("proxy.health", self.proxy.health),
            ("provisioner.health", self.provisioner.health),
            ("webui.listen", self.webui.listen),
            ("webui.health", self.webui.health),
        ]
    }

    /// The database of an installation whose data directory is `data`.
    pub(crate) fn database(&self, data: &Path) -> Database {
        match &self.store.url {
            Some(url) => Database::Postgres(url.clone()),
            None => Database::Sqlite(data.join(&self.store.path)),
        }
    }
}

/// Environment variables: `MEMGATE_PROXY__LISTEN` is proxy.listen. `MEMGATE_DATA` is a command-line option, and
/// `MEMGATE_TEST_*` belong to the test suite.
fn environment() -> Env {
    Env::prefixed("MEMGATE_").filter(|key| key != "data" && !key.starts_with("test_")).split("__")
}

/// The address at which a client on this machine reaches a listener.
pub(crate) fn local_address(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
        ip => SocketAddr::new(ip, listen.port()),
    }
}

/// All settings as pairs of `section.key` and value.
pub(crate) fn flat(settings: &Settings) -> Vec<(String, serde_json::Value)> {
    let mut keys = Vec::new();
    if let Ok(all) = serde_json::to_value(settings) {
        flatten("", all, &mut keys);
    }
    keys
}

fn flatten(path: &str, value: serde_json::Value, keys: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(&path, value, keys);
            }
        }
        value => keys.push((path.to_owned(), value)),
    }
}

fn explain(error: &figment::Error, file: Option<&SettingsFile>) -> CliError {
    let from = error.metadata.as_ref().map_or_else(String::new, |metadata| match &metadata.source {
        Some(source @ Source::File(_)) => {
            let line = file.and_then(|file| file.line_of(&with_field(error)));
            format!(" in {source}{}", line.map_or_else(String::new, |line| format!(":{line}")))
        }
        Some(source) => format!(" in {source}"),
        None if metadata.name.contains("environment") => " in the environment (MEMGATE_*)".to_owned(),
        None => " in --set".to_owned(),
    });
    let key = with_field(error).join(".");
    if let Kind::UnknownField(..) = &error.kind {
        let fix = match most_similar(&key) {
            Some(known) => format!("did you mean {known}?"),
            None => "remove it; `memgate config check` then lists all settings".to_owned(),
        };
        return CliError::new(format!("unknown setting {key}{from}"), fix);
    }
    if key.is_empty() {
        let text = error.kind.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        return CliError::new(format!("can't read the settings{from} ({text})"), "correct that line");
    }
    let (what, fix) = in_words(&error.kind);
    CliError::new(format!("invalid setting {key}{from} ({what})"), fix)
}

/// The path of the setting that an error is about, which leaves out an unknown one.
fn with_field(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind
        && path.last() != Some(field)
    {
        path.push(field.clone());
    }
    path
}

/// What is wrong with a value, and what to write: without the names of Rust's types.
fn in_words(kind: &Kind) -> (String, String) {
    let form = |expected: &str| match expected {
        "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more",
        "i64" | "i32" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "socket address" => "an address with its port, like 127.0.0.1:8080",
        "IP address" => "an address like 10.0.0.1",
        "a sequence" => "a list, like [\"10.0.0.1\"]",
        "a string" | "path string" | "string" => "a text in quotes",
        expected if expected.starts_with("struct ") => "a section with settings of its own",
        _ => "a value of the form that docs/settings.md shows",
    };
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            (format!("it is {}", value_in_words(actual)), format!("write {}", form(expected)))
        }
        Kind::UnknownVariant(found, known) => {
            (format!("it is {found}"), format!("write {}", known.join(" or ")))
        }
        Kind::Message(text) if text.contains("socket address") => {
            ("it is no address with a port".to_owned(), format!("write {}", form("socket address")))
        }
        Kind::Message(text) if text.contains("IP address") => {
            ("it is no IP address".to_owned(), format!("write {}", form("IP address")))
        }
        kind => (kind.to_string(), "correct its value".to_owned()),
    }
}

fn value_in_words(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Char(value) => format!("\"{value}\""),
        Actual::Str(value) => format!("\"{value}\""),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        _ => "something else".to_owned(),
    }
}

/// The most similar known key, if one is similar enough for "did you mean".
fn most_similar(key: &str) -> Option<String> {
    let letters = |key: &str| key.replace(['.', '_', '-'], "").to_lowercase();
    let known = flat(&Settings::default());
    let sections = known.iter().filter_map(|(key, _)| Some(key.rsplit_once('.')?.0.to_owned()));
    let names = known.iter().map(|(key, _)| key.clone()).chain(sections);
    names
        .map(|name| (strsim::levenshtein(&letters(key), &letters(&name)), name))
        // More than half of what was typed stays.
        .filter(|(distance, name)| *distance <= name.len() / 3 + 1 && distance * 2 < letters(key).len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_key_gets_a_suggestion() {
        for (typed, suggested) in [
            ("proxy.lisen", Some("proxy.listen")),
            ("proxy_listen", Some("proxy.listen")),
            ("prxy", Some("proxy")),
            ("store.uri", Some("store.url")),
            ("completely.different.words", None),
            ("foo", None),
        ] {
            assert_eq!(most_similar(typed).as_deref(), suggested, "{typed}");
        }
    }

    #[test]
    fn values_of_a_wrong_type_are_explained_without_names_of_types() {
        for (key, value, parts) in [
            ("proxy.workers", "many", ["it is \"many\"", "a whole number, 0 or more"]),
            ("proxy.workers", "-1", ["it is -1", "a whole number, 0 or more"]),
            ("proxy.scram", "maybe", ["it is \"maybe\"", "true or false"]),
            ("webui.listen", "here", ["no address with a port", "127.0.0.1:8080"]),
            ("webui.trusted_proxies", "[\"here\"]", ["no IP address", "10.0.0.1"]),
            ("proxy.proxy_protocol_from", "10.0.0.0/8", ["it is \"10.0.0.0/8\"", "a list"]),
            ("provisioner.cpus", "some", ["it is \"some\"", "a number"]),
            ("proxy", "1", ["it is 1", "a section"]),
            ("log.format", "xml", ["xml", "text or json"]),
            ("webui.endpoint", "5", ["it is 5", "a text in quotes"]),
        ] {
            let value: Value = value.parse().unwrap();
            let settings = Figment::from(Serialized::defaults(Settings::default())).merge((key, value));
            let error = explain(&settings.extract::<Settings>().unwrap_err(), None).to_string();
            assert!(error.contains(key), "{key}: {error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{key}: {error}");
            for leak in ["usize", "f64", "struct", "boolean", "sequence", "variant", "expected"] {
                assert!(!error.contains(leak), "{key}: {error}");
            }
        }
    }

    #[test]
    fn unspecified_listen_address_is_reached_at_loopback() {
        assert_eq!(local_address("0.0.0.0:11211".parse().unwrap()).to_string(), "127.0.0.1:11211");
        assert_eq!(local_address("10.0.0.1:1".parse().unwrap()).to_string(), "10.0.0.1:1");
    }
}
