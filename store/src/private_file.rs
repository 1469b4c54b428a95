//! Files that decide what a privileged process does: settings, keys, certificates, locks.
//!
//! They are opened by name, but believed only after a look at the descriptor: no link was followed, the file is a regular
//! one, it belongs to root or to the user running memgate, and nobody else may write it. Owner and mode are set on
//! the descriptor too, never by name. New files appear complete or not at all.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Bits of a mode: what group and others may write, and what others may do at all.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const PUBLIC: u32 = 0o007;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file is missing or can't be opened.
    #[error("can't use {}: check that it and its folder exist and that this user may use them", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The name leads to a link, a folder, a pipe or a device.
    #[error("{} is not a regular file: put the file itself there, no link", .0.display())]
    NotRegular(PathBuf),
    /// The name leads to something else than a folder.
    #[error("{} is not a folder: remove it, or name another one", .0.display())]
    NotFolder(PathBuf),
    /// Another user could change the file.
    #[error("{} belongs to user {owner}, who could change it: check its content, then run `chown {trusted} {}`", .path.display(), .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user running memgate.
        trusted: u32,
    },
    /// Users other than the owner may change the file.
    #[error("{} can be changed by other users: check its content, then run `chmod go-w {}`", .0.display(), .0.display())]
    Writable(PathBuf),
    /// All users of the machine can read a secret.
    #[error("{} can be read by everybody, as a restored backup often can: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// The file has another name, and somebody else may have given it this one.
    #[error("{} has several names (hard links) in a folder that other users may write: move it to another folder", .0.display())]
    Linked(PathBuf),
}

/// Owner, group and mode that a file gets.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// User id; `None` keeps it.
    pub owner: Option<u32>,
    /// Group id; `None` keeps it.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: u32,
}

impl Access {
    /// For the user running memgate alone.
    pub const PRIVATE: Self = Self { owner: None, group: None, mode: 0o600 };
}

impl FileError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What was read of a file.
#[derive(Debug)]
pub struct Content {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Whether users other than the owner and the group have any access.
    pub is_public: bool,
}

/// Reads at most `limit` bytes of a file. It may also belong to the user `operator`.
///
/// # Errors
/// [`FileError`] if the file can't be read or can't be trusted.
pub fn read(path: &Path, limit: u64, operator: Option<u32>) -> Result<Content, FileError> {
    let file = open(OpenOptions::new().read(true), path)?;
    let meta = metadata(&file, path)?;
    require_trusted(path, &meta, operator)?;
    Ok(Content { bytes: read_from(file, path, limit)?, is_public: is_public(&meta) })
}

/// Reads at most `limit` bytes of a file that not everybody may read.
///
/// # Errors
/// [`FileError`] if the file can't be read or can't be trusted, or isn't secret.
pub fn read_secret(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = open(OpenOptions::new().read(true), path)?;
    let meta = metadata(&file, path)?;
    if meta.is_file() && is_public(&meta) {
        return Err(FileError::WorldReadable(path.into()));
    }
    require_trusted(path, &meta, None)?;
    read_from(file, path, limit)
}

/// Opens a file whose lock or access matters, not its content.
///
/// # Errors
/// [`FileError`] if the file can't be opened or can't be trusted.
pub fn open_existing(path: &Path) -> Result<File, FileError> {
    let file = open(OpenOptions::new().read(true), path)?;
    require_trusted(path, &metadata(&file, path)?, None)?;
    Ok(file)
}

/// Opens a file that a group shares, such as a database: the group may write its content.
///
/// # Errors
/// [`FileError`] if the file can't be opened or can't be trusted, or is everybody's.
pub fn open_shared(path: &Path) -> Result<File, FileError> {
    let file = open(OpenOptions::new().read(true), path)?;
    let meta = metadata(&file, path)?;
    if meta.is_file() && is_public(&meta) {
        return Err(FileError::WorldReadable(path.into()));
    }
    require_regular(path, &meta)?;
    require_owner(path, &meta, None)?;
    Ok(file)
}

/// Opens a folder, to set its access.
///
/// # Errors
/// [`FileError`] if it is no folder, or belongs to another user than root or the user running memgate.
pub fn open_folder(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let folder = opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory => FileError::NotFolder(path.into()),
        _ => FileError::Io { path: path.into(), source },
    })?;
    require_owner(path, &metadata(&folder, path)?, None)?;
    Ok(folder)
}

/// Opens a file such as a lock for writing, or creates it for the user running memgate alone.
///
/// # Errors
/// [`FileError`] if the file can't be opened or can't be trusted.
pub fn open_or_create(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    let file = open(options.read(true).write(true).create(true).mode(Access::PRIVATE.mode), path)?;
    require_trusted(path, &metadata(&file, path)?, None)?;
    Ok(file)
}

fn open(options: &mut OpenOptions, path: &Path) -> Result<File, FileError> {
    use rustix::io::Errno;
    // Without NONBLOCK, opening a pipe would wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|source| {
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => FileError::NotRegular(path.into()),
            _ => FileError::Io { path: path.into(), source },
        }
    })
}

fn metadata(file: &File, path: &Path) -> Result<Metadata, FileError> {
    file.metadata().map_err(|source| FileError::Io { path: path.into(), source })
}

fn read_from(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(|source| FileError::Io { path: path.into(), source })?;
    Ok(bytes)
}

fn require_trusted(path: &Path, file: &Metadata, operator: Option<u32>) -> Result<(), FileError> {
    require_regular(path, file)?;
    require_owner(path, file, operator)?;
    if file.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::Writable(path.into()));
    }
    if file.nlink() != 1 && may_be_linked_by_others(folder_of(path), file) {
        return Err(FileError::Linked(path.into()));
    }
    Ok(())
}

/// Whether others can have given a name in `folder` to `file`, which is trusted for another purpose. Its owner may.
fn may_be_linked_by_others(folder: &Path, file: &Metadata) -> bool {
    let is_ours = |owner: u32| owner == file.uid() || is_trusted(owner);
    !fs::metadata(folder).is_ok_and(|it| it.mode() & WRITABLE_BY_OTHERS == 0 && is_ours(it.uid()))
}

fn require_regular(path: &Path, file: &Metadata) -> Result<(), FileError> {
    if file.is_file() { Ok(()) } else { Err(FileError::NotRegular(path.into())) }
}

fn require_owner(path: &Path, file: &Metadata, operator: Option<u32>) -> Result<(), FileError> {
    if is_trusted(file.uid()) || operator == Some(file.uid()) {
        return Ok(());
    }
    let trusted = rustix::process::geteuid().as_raw();
    Err(FileError::Owner { path: path.into(), owner: file.uid(), trusted })
}

/// Whether a user is root or the one running memgate.
fn is_trusted(user: u32) -> bool {
    const ROOT: u32 = 0;
    user == ROOT || user == rustix::process::geteuid().as_raw()
}

/// Creates a file that contains `bytes`; `AlreadyExists` if the path is taken. Other processes never see a part of it.
///
/// # Errors
/// If the file can't be created.
pub fn create(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    // Unlike a rename, a link never replaces a file that another process has created meanwhile.
    let made = write_draft(path, access, bytes).and_then(|draft| {
        let linked = fs::hard_link(&draft, path);
        let _ = fs::remove_file(&draft);
        linked
    });
    made?;
    sync_folder(path)
}

/// Creates a file that contains `bytes`, or replaces it. Other processes see the old content or the new.
///
/// # Errors
/// If the file can't be written.
pub fn replace(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    let draft = write_draft(path, access, bytes)?;
    let renamed = fs::rename(&draft, path);
    if renamed.is_err() {
        let _ = fs::remove_file(&draft);
    }
    renamed?;
    sync_folder(path)
}

/// Sets owner, group and mode of an open file or folder where they differ.
///
/// # Errors
/// If this process may not change them.
pub fn set_access(file: &File, access: Access) -> io::Result<()> {
    let meta = file.metadata()?;
    let keeps_owner = access.owner.is_none_or(|owner| owner == meta.uid());
    let keeps_group = access.group.is_none_or(|group| group == meta.gid());
    if !(keeps_owner && keeps_group) {
        std::os::unix::fs::fchown(file, access.owner, access.group)?;
    }
    if meta.mode() & 0o7777 != access.mode || !(keeps_owner && keeps_group) {
        file.set_permissions(Permissions::from_mode(access.mode))?;
    }
    Ok(())
}

/// Whether users other than the owner and the group have any access.
pub(crate) fn is_public(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & PUBLIC != 0
}

/// Writes a new file beside `path`, under a name that nobody can foresee.
fn write_draft(path: &Path, access: Access, bytes: &[u8]) -> io::Result<PathBuf> {
    let draft = folder_of(path).join(format!(".{:016x}.draft", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written =
        file.write_all(bytes).and_then(|()| set_access(&file, access)).and_then(|()| file.sync_all());
    match written {
        Ok(()) => Ok(draft),
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(error)
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("file"));
        fs::write(&victim, "unchanged").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        (folder, victim, path)
    }

    //
    #[test]
    fn only_a_regular_file_of_a_trusted_user_is_opened() {
        let (folder, victim, path) = folder();
        assert!(open_existing(&path).unwrap_err().is_not_found());
        create(&path, Access::PRIVATE, b"text").unwrap();
        assert_eq!(read(&path, 100, None).unwrap().bytes, b"text");
        assert_eq!(read(&path, 2, None).unwrap().bytes, b"te");
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(open_existing(&path), Err(FileError::Writable(_))), "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        assert!(matches!(open_existing(&path), Err(FileError::NotRegular(_))));
        assert!(matches!(open_or_create(&path), Err(FileError::NotRegular(_))));
        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("nowhere"), &path).unwrap();
        assert!(matches!(open_or_create(&path), Err(FileError::NotRegular(_))));
        assert!(!folder.path().join("nowhere").exists());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(open_existing(&path), Err(FileError::NotRegular(_))));
        assert!(matches!(open_or_create(&path), Err(FileError::NotRegular(_))));
        fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(matches!(open_existing(&path), Err(FileError::NotRegular(_))));
        assert!(matches!(open_or_create(&path), Err(FileError::NotRegular(_))));
    }

    #[test]
    fn another_users_file_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, victim, _) = folder();
        std::os::unix::fs::chown(&victim, Some(12345), None).unwrap();
        let error = open_existing(&victim).unwrap_err();
        assert!(matches!(error, FileError::Owner { owner: 12345, .. }), "{error}");
        assert_eq!(read(&victim, 100, Some(12345)).unwrap().bytes, b"unchanged");
    }

    #[test]
    fn hard_link_is_refused_where_others_may_make_one() {
        let (folder, victim, path) = folder();
        fs::hard_link(&victim, &path).unwrap();
        assert!(open_existing(&path).is_ok(), "only we can have made it");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(open_existing(&path), Err(FileError::Linked(_))));
    }

    //
    #[test]
    fn hard_link_in_another_users_folder_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (folder, victim, path) = folder();
        fs::hard_link(&victim, &path).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
        assert!(matches!(open_existing(&path), Err(FileError::Linked(_))));
        std::os::unix::fs::chown(&victim, Some(12345), None).unwrap();
        assert!(read(&path, 100, Some(12345)).is_ok(), "the operator's own file in his own folder");
        std::os::unix::fs::chown(folder.path(), Some(54321), None).unwrap();
        assert!(matches!(read(&path, 100, Some(12345)), Err(FileError::Linked(_))));
    }

    #[test]
    fn replacing_a_link_leaves_its_target_alone() {
        let (folder, victim, path) = folder();
        symlink(&victim, &path).unwrap();
        assert_eq!(create(&path, Access::PRIVATE, b"new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        replace(&path, Access { mode: 0o444, ..Access::PRIVATE }, b"new").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"unchanged");
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o170_777, 0o100_444);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }
}
