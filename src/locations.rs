//! Where the data directory and the settings file are. A package of the distribution has them in places of their own, which
//! every command finds without an option.

use std::path::{Path, PathBuf};

use crate::global_args::GlobalArgs;

/// The settings file in the data directory.
pub(crate) const SETTINGS_NAME: &str = "memgate.toml";
/// Where `memgate.service` has the data, and where the package has the settings for it.
const SERVICE_DATA: &str = "/var/lib/memgate";
const SERVICE_SETTINGS: &str = "/etc/memgate/memgate.toml";
const DEFAULT_DATA: &str = "data";

/// The data directory: `--data` or `$MEMGATE_DATA`, else the directory of `--config`'s file, else `./data`, else that of the
/// service.
pub(crate) fn data_path(global: &GlobalArgs) -> PathBuf {
    let named = global.data.clone().filter(|path| !path.as_os_str().is_empty());
    let beside = || match global.config.as_deref() {
        Some(config) if config == Path::new(SERVICE_SETTINGS) => Some(PathBuf::from(SERVICE_DATA)),
        config => config.and_then(Path::parent).map(Path::to_path_buf),
    };
    match named.or_else(beside) {
        Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
        Some(path) => path,
        None => unnamed_data(Path::new(DEFAULT_DATA), Path::new(SERVICE_DATA)),
    }
}

/// Nobody who has data of his own in the current folder gets the service's.
fn unnamed_data(own: &Path, service: &Path) -> PathBuf {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    if !is_there(own) && is_there(service) { service.to_path_buf() } else { own.to_path_buf() }
}

/// Where the settings of a data directory are, the first that exists first: in it and, for that of the service, where the
/// package has them.
pub(crate) fn settings_paths(data: &Path) -> Vec<PathBuf> {
    let mut paths = vec![data.join(SETTINGS_NAME)];
    if data == Path::new(SERVICE_DATA) {
        paths.push(PathBuf::from(SERVICE_SETTINGS));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_the_current_folder_comes_before_the_services() {
        let dir = tempfile::tempdir().unwrap();
        let (own, service) = (dir.path().join("data"), dir.path().join("service"));
        assert_eq!(unnamed_data(&own, &service), own);
        std::fs::create_dir(&service).unwrap();
        assert_eq!(unnamed_data(&own, &service), service);
        std::fs::create_dir(&own).unwrap();
        assert_eq!(unnamed_data(&own, &service), own);
    }

    #[test]
    fn only_the_service_has_settings_elsewhere() {
        assert_eq!(settings_paths(Path::new("/srv/memgate")), [Path::new("/srv/memgate/memgate.toml")]);
        let service = ["/var/lib/memgate/memgate.toml", "/etc/memgate/memgate.toml"];
        assert_eq!(settings_paths(Path::new("/var/lib/memgate")), service.map(PathBuf::from));
    }
}
