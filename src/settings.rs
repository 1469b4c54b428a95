//! Settings: defaults, then memgate.toml, then `MEMGATE_*`, then `--set`. Unknown keys are errors.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use daemon::telemetry::LogFormat;
use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::Value;
use serde::{Deserialize, Serialize};
use store::Database;

use crate::global_args::GlobalArgs;
use crate::output::CliError;

const FILE: &str = "memgate.toml";
const DEFAULT_DATA: &str = "data";

/// memgate.toml, section by section.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) store: StoreSettings,
    pub(crate) log: LogSettings,
    pub(crate) proxy: proxy::Config,
    pub(crate) provisioner: provisioner::Config,
    pub(crate) webui: webui::Config,
}

/// Where the store is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSettings {
    /// SQLite's file; a relative path is under the data folder.
    pub(crate) path: PathBuf,
    /// PostgreSQL's address instead: `postgres://user:password@host/database`.
    pub(crate) url: Option<String>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// As in `RUST_LOG`: "info", "proxy=debug,info".
    pub(crate) filter: String,
    /// "text" or "json".
    pub(crate) format: LogFormat,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { path: "memgate.db".into(), url: None }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: daemon::telemetry::default_filter(0), format: LogFormat::Text }
    }
}

impl Settings {
    /// Reads them for this command line.
    pub(crate) fn load(global: &GlobalArgs) -> Result<Self, CliError> {
        let mut given = Figment::new();
        let default = data_path(global).join(FILE);
        match &global.config {
            Some(file) if !file.is_file() => {
                let fix = "name an existing one with --config";
                return Err(CliError::new(format!("there is no settings file {}", file.display()), fix));
            }
            Some(file) => given = given.merge(Toml::file_exact(file)),
            None if default.is_file() => given = given.merge(Toml::file_exact(&default)),
            None => {}
        }
        given = given.merge(environment());
        for pair in &global.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CliError::usage(format!("--set {pair} names no value"), "write --set KEY=VALUE")
            })?;
            let value: Value = value.parse().unwrap_or_else(|never| match never {});
            given = given.merge((key, value));
        }
        let endpoint_given = given.contains("webui.endpoint");
        let defaults = Serialized::defaults(Self::default());
        let mut settings: Self =
            Figment::from(defaults).merge(given).extract().map_err(|error| explain(&error))?;
        if !endpoint_given {
            settings.webui.endpoint = reachable(settings.proxy.listen).to_string();
        }
        Ok(settings)
    }

    /// The database that they name.
    pub(crate) fn database(&self, data: &Path) -> Database {
        match &self.store.url {
            Some(url) => Database::Postgres(url.clone()),
            None => Database::Sqlite(data.join(&self.store.path)),
        }
    }
}

/// `MEMGATE_PROXY__LISTEN` is proxy.listen. The data folder's variable belongs to the command line, and
/// those of the test suite are none of ours.
fn environment() -> Env {
    Env::prefixed("MEMGATE_").filter(|key| key != "data" && !key.starts_with("test_")).split("__")
}

/// The data folder: `--data` or `$MEMGATE_DATA`, else the folder of `--config`'s file, else `./data`.
pub(crate) fn data_path(global: &GlobalArgs) -> PathBuf {
    let named = global.data.clone().filter(|path| !path.as_os_str().is_empty());
    let beside = || global.config.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    match named.or_else(beside) {
        Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
        Some(path) => path,
        None => PathBuf::from(DEFAULT_DATA),
    }
}

/// The address that somebody on this machine dials to get to a listener.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
        ip => SocketAddr::new(ip, listen.port()),
    }
}

/// All keys there are, as `section.key`, with their values.
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

fn explain(error: &figment::Error) -> CliError {
    let from = error.metadata.as_ref().map_or_else(String::new, |metadata| match &metadata.source {
        Some(source) => format!(" in {source}"),
        None if metadata.name.contains("environment") => " in the environment (MEMGATE_*)".to_owned(),
        None => " in --set".to_owned(),
    });
    let mut key = error.path.join(".");
    if let Kind::UnknownField(field, _) = &error.kind {
        if error.path.last() != Some(field) {
            key = if key.is_empty() { field.clone() } else { format!("{key}.{field}") };
        }
        let fix = match nearest(&key) {
            Some(known) => format!("did you mean {known}?"),
            None => "memgate config check --json lists the known ones once it is gone".to_owned(),
        };
        return CliError::new(format!("unknown setting {key}{from}"), fix);
    }
    if key.is_empty() {
        let text = error.kind.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        return CliError::new(format!("can't read the settings{from} ({text})"), "correct that line");
    }
    CliError::new(format!("the setting {key}{from} can't be used ({})", error.kind), "correct its value")
}

/// The known key that differs least, if one is near.
fn nearest(key: &str) -> Option<String> {
    let plain = |key: &str| key.replace(['.', '_', '-'], "").to_lowercase();
    let known = flat(&Settings::default());
    let sections = known.iter().filter_map(|(key, _)| Some(key.rsplit_once('.')?.0.to_owned()));
    let names = known.iter().map(|(key, _)| key.clone()).chain(sections);
    names
        .map(|name| (distance(&plain(key), &plain(&name)), name))
        .filter(|(distance, name)| *distance <= name.len() / 3 + 1)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's: how many letters to insert, delete or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        for (typed, meant) in [
            ("proxy.lisen", Some("proxy.listen")),
            ("proxy_listen", Some("proxy.listen")),
            ("prxy", Some("proxy")),
            ("store.uri", Some("store.url")),
            ("completely.different.words", None),
        ] {
            assert_eq!(nearest(typed).as_deref(), meant, "{typed}");
        }
    }

    #[test]
    fn where_a_listener_is_dialled() {
        assert_eq!(reachable("0.0.0.0:11211".parse().unwrap()).to_string(), "127.0.0.1:11211");
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()).to_string(), "10.0.0.1:1");
    }
}
