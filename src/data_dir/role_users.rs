//! The roles' users of a PostgreSQL database: for each a file with the password, which `EnvironmentFile=` of systemd takes too.
//! `memgate migrate --roles` makes them.

use std::path::{Path, PathBuf};

use store::private_file::{self, Access};
use store::{DatabaseRole, Password, RoleUser, Store};

use super::entries::{exists, io_error};
use super::{DataDir, installation};
use crate::database_url;
use crate::output::CliError;
use crate::settings::Settings;

/// The names of all files.
pub(super) const FILES: [&str; 3] = ["store-proxy.env", "store-provisioner.env", "store-webui.env"];
/// What a file begins with.
const VARIABLE: &str = "MEMGATE_STORE__URL=";
/// Bytes that are read of a file, which is shorter.
const LENGTH_MAX: u64 = 4 << 10;

impl DataDir {
    /// Gives the roles users of their own in the database, as far as they have none, and those the rights of this version.
    /// Returns the files with their passwords.
    ///
    /// # Errors
    /// If the store isn't PostgreSQL, its user may not do this, or a file can't be written.
    pub(crate) async fn set_up_role_users(
        &self,
        settings: &Settings,
        store: &Store,
        new_passwords: bool,
    ) -> Result<Vec<PathBuf>, CliError> {
        let Some(url) = &settings.store.url else {
            return Err(CliError::new(
                "SQLite has no users: all roles share one file",
                "set store.url to a PostgreSQL database, or leave out --roles",
            ));
        };
        let installation = installation::require(&self.path)?;
        set_up(&self.path, url, store, &installation, new_passwords).await
    }

    /// Whether the roles have users of their own in the database.
    ///
    /// # Errors
    /// If this user may not look.
    pub(crate) fn has_role_users(&self) -> Result<bool, CliError> {
        exist(&self.path)
    }

    /// The address of the database for a role: with the role's own user, if it has one and this user may read which.
    ///
    /// # Errors
    /// If the file with the password can't be read or trusted.
    pub(crate) fn role_store_url(
        &self,
        settings: &Settings,
        role: DatabaseRole,
    ) -> Result<Option<String>, CliError> {
        let Some(url) = &settings.store.url else { return Ok(None) };
        let own = url_of(&self.path, role, url)?;
        Ok(Some(own.unwrap_or_else(|| url.clone())))
    }
}

/// The file of a role.
fn path(data: &Path, role: DatabaseRole) -> PathBuf {
    let [proxy, provisioner, webui] = FILES;
    data.join(match role {
        DatabaseRole::Proxy => proxy,
        DatabaseRole::Provisioner => provisioner,
        DatabaseRole::Webui => webui,
    })
}

/// The database's address for a role, whose host and database are those of `url`; `None` if the role has no user of its own.
///
/// # Errors
/// If the file can't be read or trusted, or contains something else.
fn url_of(data: &Path, role: DatabaseRole, url: &str) -> Result<Option<String>, CliError> {
    let path = path(data, role);
    let text = match private_file::read_secret(&path, LENGTH_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&text);
    let login = text.trim().strip_prefix(VARIABLE).and_then(database_url::login);
    let address = login.and_then(|(name, password)| database_url::with_login(url, &name, &password));
    address.map(Some).ok_or_else(|| {
        let what = format!("{} doesn't contain a database's address", path.display());
        CliError::new(what, "run `memgate migrate --roles` again")
    })
}

/// Whether the roles have users of their own.
///
/// # Errors
/// If this user may not look.
fn exist(data: &Path) -> Result<bool, CliError> {
    exists(&path(data, DatabaseRole::Proxy))
}

/// Makes the users and their files, as far as they are missing, and gives the users their rights. With `new_passwords`, all of
/// them get another password. Returns the files.
///
/// # Errors
/// If a file can't be read or written, or the database's user may not do this.
async fn set_up(
    data: &Path,
    url: &str,
    store: &Store,
    installation: &str,
    new_passwords: bool,
) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for role in DatabaseRole::ALL {
        let kept = if new_passwords { None } else { url_of(data, role, url)? };
        let mut user = RoleUser::generate(role, installation);
        let password = match kept.as_deref().and_then(database_url::login) {
            // A name from a copied file must not give rights to another installation's user.
            Some((name, password)) if name == user.name => {
                user.password = password;
                Password::Keep
            }
            _ => Password::Set,
        };
        let file = path(data, role);
        if password == Password::Set {
            // Before the database has it: a password that is set and lost would keep the role out.
            let url = database_url::with_login(url, &user.name, &user.password).ok_or_else(|| {
                CliError::new("store.url is malformed", "write it as postgres://user:password@host/database")
            })?;
            private_file::replace(&file, Access::PRIVATE, format!("{VARIABLE}{url}\n").as_bytes())
                .map_err(|error| io_error("write", &file, &error))?;
        }
        store.set_up_role_users(&[user], password).await?;
        files.push(file);
    }
    Ok(files)
}
