//! The settings file: which one counts, who may have written it and who may read it, and where in it a setting is.

use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};
use store::private_file;
use toml_edit::{ImDocument, TableLike};

use crate::database_url;
use crate::global_args::GlobalArgs;
use crate::locations::{data_path, settings_paths};
use crate::output::CliError;
use crate::trusted_folder::{self, Use};

/// Bytes that are read of a settings file.
const FILE_LENGTH_MAX: u64 = 1 << 20;

/// A settings file that this process may obey: no unprivileged role can have written it.
pub(crate) struct SettingsFile {
    path: PathBuf,
    text: String,
    /// Whether all users of the machine can read it.
    is_public: bool,
}

impl SettingsFile {
    /// The file that the command line names, or that of the data directory if it exists.
    ///
    /// # Errors
    /// If it can't be read or trusted, holds a password that everybody can read, or two files count.
    pub(super) fn find(global: &GlobalArgs) -> Result<Option<Self>, CliError> {
        let Some(path) = &global.config else { return Self::of_data(&data_path(global)) };
        let missing = || {
            let fix = "name an existing file with --config";
            CliError::new(format!("no settings file {}", path.display()), fix)
        };
        Self::read(path)?.map(Some).ok_or_else(missing)
    }

    /// The file of a data directory. One without settings, such as the package's example, doesn't count beside another.
    fn of_data(data: &Path) -> Result<Option<Self>, CliError> {
        let mut found: Option<Self> = None;
        for path in settings_paths(data) {
            let Some(file) = Self::read(&path)? else { continue };
            match &found {
                Some(first) if first.has_settings() && file.has_settings() => {
                    return Err(CliError::new(
                        format!("both {} and {} have settings", first.path.display(), path.display()),
                        "move them all to one of the two files",
                    ));
                }
                Some(first) if first.has_settings() => {}
                _ => found = Some(file),
            }
        }
        Ok(found)
    }

    /// The path of the file with the settings of a data directory, if there is one with any.
    ///
    /// # Errors
    /// As [`SettingsFile::find`].
    pub(crate) fn path_for(data: &Path) -> Result<Option<PathBuf>, CliError> {
        Ok(Self::of_data(data)?.filter(Self::has_settings).map(|file| file.path))
    }

    fn read(path: &Path) -> Result<Option<Self>, CliError> {
        if path.symlink_metadata().is_ok() {
            trusted_folder::require(path.parent().unwrap_or(Path::new("/")), Use::Shared)?;
        }
        let content = match private_file::read(path, FILE_LENGTH_MAX, operator()) {
            Ok(content) => content,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8(content.bytes).map_err(|_| {
            CliError::new(format!("{} is not UTF-8 text", path.display()), "write it as TOML")
        })?;
        let file = Self { path: path.to_path_buf(), text, is_public: content.is_public };
        file.require_private_password()?;
        Ok(Some(file))
    }

    /// Whether it has a line that isn't empty, a comment or a section's name.
    fn has_settings(&self) -> bool {
        let is_setting = |line: &str| !line.is_empty() && !line.starts_with(['#', '[']);
        self.text.lines().map(str::trim).any(is_setting)
    }

    /// The number of the line of a setting, if the file is TOML and has it.
    pub(super) fn line_of(&self, key: &[String]) -> Option<usize> {
        let document = ImDocument::parse(self.text.as_str()).ok()?;
        let mut table: &dyn TableLike = document.as_table();
        let (last, sections) = key.split_last()?;
        for section in sections {
            table = table.get(section)?.as_table_like()?;
        }
        let start = table.get_key_value(last)?.0.span()?.start;
        Some(self.text.get(..start)?.matches('\n').count() + 1)
    }

    /// Refuses a file with a password that all users of the machine can read, as keys and the database are refused.
    fn require_private_password(&self) -> Result<(), CliError> {
        let text = Figment::from(Toml::string(&self.text));
        let url = text.extract_inner::<String>("store.url");
        let (whose, key) = if url.is_ok_and(|url| database_url::has_password(&url)) {
            ("the database's", "store.url")
        } else if text.contains("webui.mail.password") {
            ("the mail server's", "webui.mail.password")
        } else {
            return Ok(());
        };
        if !self.is_public {
            return Ok(());
        }
        let path = self.path.display();
        let key: Vec<String> = key.split('.').map(str::to_owned).collect();
        let line = self.line_of(&key).map_or_else(String::new, |line| format!(" in line {line}"));
        Err(CliError::new(
            format!("{path} holds {whose} password{line} and can be read by everybody"),
            format!("run `chmod o= {path}`"),
        ))
    }
}

impl Provider for &SettingsFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Toml::string(&self.text).data()
    }
}

/// The user who became root with sudo: the settings file may be his.
fn operator() -> Option<u32> {
    let id = std::env::var("SUDO_UID").ok()?;
    rustix::process::geteuid().is_root().then(|| id.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SettingsFile {
        SettingsFile { path: "memgate.toml".into(), text: text.to_owned(), is_public: true }
    }

    #[test]
    fn line_of_a_setting_is_found() {
        let file = file(
            "# a\n[store]\n\nurl = \"x\"\n[webui]\nmail.password = \"y\"\n[webui.limits]\n  nosuch = 1\n",
        );
        for (key, line) in [
            ("store.url", Some(4)),
            ("webui.mail.password", Some(6)),
            ("webui.limits.nosuch", Some(8)),
            ("store", Some(2)),
            ("store.path", None),
            ("store.url.more", None),
        ] {
            let key: Vec<String> = key.split('.').map(str::to_owned).collect();
            assert_eq!(file.line_of(&key), line, "{key:?}");
        }
        assert_eq!(self::file("not TOML").line_of(&["store".to_owned()]), None);
    }

    #[test]
    fn example_without_settings_has_none() {
        let example = include_str!("../../deploy/debian/memgate.toml");
        assert!(!file(example).has_settings());
        assert!(file(&example.replace("#listen", "listen")).has_settings());
        let everything = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| line.contains(" = ")).unwrap_or(line));
        let everything: String = everything.map(|line| format!("{line}\n")).collect();
        let settings =
            Figment::from(figment::providers::Serialized::defaults(crate::settings::Settings::default()));
        settings.merge(Toml::string(&everything)).extract::<crate::settings::Settings>().unwrap();
    }

    //
    #[test]
    fn public_file_with_a_password_is_refused_with_its_line() {
        for (text, parts) in [
            ("[store]\nurl = \"postgres://a:b@c/d\"\n", ["the database's", "line 2"]),
            ("[webui.mail]\n\npassword = \"b\"\n", ["the mail server's", "line 3"]),
        ] {
            let mut file = file(text);
            let error = file.require_private_password().unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)) && error.contains("chmod o="), "{error}");
            file.is_public = false;
            file.require_private_password().unwrap();
        }
        file("[store]\nurl = \"postgres://a@c/d\"\n").require_private_password().unwrap();
    }
}
