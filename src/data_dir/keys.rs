//! The key files. They are made before the store knows the installation, and never again: the store's fingerprints then tell
//! which keys are the installation's (F-28). With other keys a proxy would refuse every login, and a provisioner would
//! replace every cache.

use std::path::Path;

use store::private_file::{self, Access};
use store::{KeyFingerprint, LaneKey, Store, TokenKey};

use super::DataDir;
use super::entries::{exists, io_error};
use crate::ca;
use crate::output::CliError;
use crate::system_users::SystemUsers;

pub(super) const TOKEN_KEY: &str = "token.key";
pub(super) const LANE_KEY: &str = "lane.key";
/// Bytes that are read of a key file, which is shorter.
const SECRET_LENGTH_MAX: u64 = 4 << 10;

/// The name of a key file that exists.
///
/// # Errors
/// If this user may not look.
pub(super) fn existing(data: &Path) -> Result<Option<&'static str>, CliError> {
    for name in [TOKEN_KEY, LANE_KEY] {
        if exists(&data.join(name))? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Makes the keys of a new installation, as far as an earlier start hasn't.
///
/// # Errors
/// If a file can't be made or used.
pub(super) fn create(data: &Path) -> Result<(), CliError> {
    TokenKey::load_or_create(&data.join(TOKEN_KEY))?;
    LaneKey::load_or_create(&data.join(LANE_KEY))?;
    Ok(())
}

/// Refuses other keys than the installation's. Records the fingerprints of a store that has none yet: only root's commands
/// decide which keys are the right ones.
///
/// # Errors
/// If a key is missing, can't be used, or isn't the installation's.
pub(super) async fn require_or_record(data: &Path, store: &Store) -> Result<(), CliError> {
    // What is wrong with an old key must not be hidden by a change of its mode.
    let token_key = TokenKey::load(&data.join(TOKEN_KEY))?.fingerprint();
    let lane_key = LaneKey::load(&data.join(LANE_KEY))?.fingerprint();
    let recorded = store.record_key_fingerprints(&token_key, &lane_key).await?;
    compare(data, TOKEN_KEY, &token_key, recorded.token_key.as_ref())?;
    compare(data, LANE_KEY, &lane_key, recorded.lane_key.as_ref())
}

/// Reads the key of token hashes.
///
/// # Errors
/// If it can't be used, or isn't the installation's.
pub(super) async fn token_key(data: &Path, store: &Store) -> Result<TokenKey, CliError> {
    let key = TokenKey::load(&data.join(TOKEN_KEY))?;
    compare(data, TOKEN_KEY, &key.fingerprint(), store.key_fingerprints().await?.token_key.as_ref())?;
    Ok(key)
}

/// Reads the key from which lane credentials are derived.
///
/// # Errors
/// If it can't be used, or isn't the installation's.
pub(super) async fn lane_key(data: &Path, store: &Store) -> Result<LaneKey, CliError> {
    let key = LaneKey::load(&data.join(LANE_KEY))?;
    compare(data, LANE_KEY, &key.fingerprint(), store.key_fingerprints().await?.lane_key.as_ref())?;
    Ok(key)
}

/// Gives the files to the groups of the roles that read them.
///
/// # Errors
/// If root may not.
pub(super) fn set_access(data: &Path, users: &SystemUsers) -> Result<(), CliError> {
    for (name, group) in [(TOKEN_KEY, users.group), (LANE_KEY, users.proxy_group)] {
        let path = data.join(name);
        let access = Access { owner: None, group: Some(group.as_raw()), mode: 0o640 };
        private_file::set_access(&private_file::open_existing(&path)?, access)
            .map_err(|error| io_error("set the access of", &path, &error))?;
    }
    Ok(())
}

fn compare(
    data: &Path,
    name: &str,
    own: &KeyFingerprint,
    recorded: Option<&KeyFingerprint>,
) -> Result<(), CliError> {
    compare_fingerprints(&data.join(name), name, own, recorded)
}

/// Refuses a key of this name in a file that isn't the installation's.
///
/// # Errors
/// If the store has recorded another fingerprint, or none.
pub(crate) fn compare_fingerprints(
    path: &Path,
    name: &str,
    own: &KeyFingerprint,
    recorded: Option<&KeyFingerprint>,
) -> Result<(), CliError> {
    match recorded {
        Some(recorded) if recorded == own => Ok(()),
        Some(_) => Err(CliError::new(
            format!(
                "{} is not the {name} of this installation: the database holds another key's fingerprint",
                path.display()
            ),
            format!(
                "nothing was changed; put the right {name} back, from a backup or from another machine of this installation"
            ),
        )),
        None => Err(CliError::new(
            format!("the database doesn't tell whether {} is the right key", path.display()),
            "run `memgate migrate` once, on a machine whose keys are the installation's",
        )),
    }
}

impl DataDir {
    /// The keys as their files hold them, as far as this user may read them: what must not be told to anybody.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let read = |name| private_file::read(&self.path().join(name), SECRET_LENGTH_MAX, None).ok();
        let text = |content: private_file::Content| String::from_utf8_lossy(&content.bytes).trim().to_owned();
        let files = [TOKEN_KEY, LANE_KEY, ca::CA_KEY, ca::SERVER_KEY].into_iter().filter_map(read).map(text);
        // Of a key in PEM each line by itself, but for its first and last, which are no secret.
        let lines = files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| !line.starts_with("-----")).collect()
    }
}
