//! The roles' users of a PostgreSQL database: for each a file with the password, which `EnvironmentFile=` of systemd takes too.
//! `memgate migrate --roles` makes them.

use std::fs;
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
/// The names of files whose passwords the database may not have yet.
pub(super) const DRAFTS: [&str; 3] =
    ["store-proxy.env.new", "store-provisioner.env.new", "store-webui.env.new"];
/// What a file begins with.
const VARIABLE: &str = "MEMGATE_STORE__URL=";
/// Bytes that are read of a file, which is shorter.
const LENGTH_MAX: u64 = 4 << 10;

/// The roles' users after they were set up.
pub(crate) struct RoleUsers {
    /// The files with their passwords.
    pub(crate) files: Vec<PathBuf>,
    /// Connections with former passwords that the store's user may not end.
    pub(crate) open_connections: u64,
}

impl DataDir {
    /// Gives the roles users of their own in the database, as far as they have none, and those the rights of this version. New
    /// passwords end the connections that were made with the former ones.
    ///
    /// # Errors
    /// If the store isn't PostgreSQL, its user may not do this, or a file can't be written.
    pub(crate) async fn set_up_role_users(
        &self,
        settings: &Settings,
        store: &Store,
        new_passwords: bool,
    ) -> Result<RoleUsers, CliError> {
        let Some(url) = &settings.store.url else {
            return Err(CliError::new(
                "SQLite has no users: all roles share one file",
                "set store.url to a PostgreSQL database, or leave out --roles",
            ));
        };
        let installation = installation::require(&self.path)?;
        set_up(&self.path, url, store, &installation, new_passwords).await
    }

    /// Whether the roles have users of their own in the settings' database.
    ///
    /// # Errors
    /// If this user may not look.
    pub(crate) fn has_role_users(&self, settings: &Settings) -> Result<bool, CliError> {
        Ok(settings.store.url.is_some() && exists(&path(&self.path, FILES, DatabaseRole::Proxy))?)
    }

    /// The address of the database for a role: with the role's own user, if it has one.
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

/// The file of a role, of one name for each.
fn path(data: &Path, [proxy, provisioner, webui]: [&str; 3], role: DatabaseRole) -> PathBuf {
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
    let path = path(data, FILES, role);
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

/// Makes the users and their files, as far as they are missing, and gives the users their rights. With `new_passwords`, all of
/// them get another password.
///
/// # Errors
/// If a file can't be read or written, or the database's user may not do this.
async fn set_up(
    data: &Path,
    url: &str,
    store: &Store,
    installation: &str,
    new_passwords: bool,
) -> Result<RoleUsers, CliError> {
    let mut done = RoleUsers { files: Vec::new(), open_connections: 0 };
    for role in DatabaseRole::ALL {
        let [file, draft] = [FILES, DRAFTS].map(|names| path(data, names, role));
        // A draft is of a run that ended before it knew whether the database has its password.
        let keeps = !new_passwords && !exists(&draft)?;
        let kept = if keeps { url_of(data, role, url)? } else { None };
        let mut user = RoleUser::generate(role, installation);
        match kept.as_deref().and_then(database_url::login) {
            // A name from a copied file must not give rights to another installation's user.
            Some((name, password)) if name == user.name => {
                user.password = password;
                let text = text(url, &user)?;
                store.set_up_role_users(&[user], Password::Keep).await?;
                // Another host or database.
                if private_file::read_secret(&file, LENGTH_MAX)? != text.as_bytes() {
                    write(&file, &text)?;
                }
            }
            _ => {
                done.open_connections +=
                    set_password(store, &user, &text(url, &user)?, (&file, &draft)).await?;
            }
        }
        done.files.push(file);
    }
    Ok(done)
}

/// Gives a user a password. Its file is written before the database has it, since a password that is set and lost would keep the
/// role out, and gets its name afterwards: a file means that its password works.
async fn set_password(
    store: &Store,
    user: &RoleUser,
    text: &str,
    (file, draft): (&Path, &Path),
) -> Result<u64, CliError> {
    store.require_may_create_users().await?;
    write(draft, text)?;
    store.set_up_role_users(std::slice::from_ref(user), Password::Set).await?;
    fs::rename(draft, file).map_err(|error| io_error("write", file, &error))?;
    Ok(store.end_connections_of(user).await?)
}

/// The content of a user's file.
fn text(url: &str, user: &RoleUser) -> Result<String, CliError> {
    let url = database_url::with_login(url, &user.name, &user.password).ok_or_else(|| {
        CliError::new("store.url is malformed", "write it as postgres://user:password@host/database")
    })?;
    Ok(format!("{VARIABLE}{url}\n"))
}

fn write(file: &Path, text: &str) -> Result<(), CliError> {
    private_file::replace(file, Access::PRIVATE, text.as_bytes())
        .map_err(|error| io_error("write", file, &error))
}
