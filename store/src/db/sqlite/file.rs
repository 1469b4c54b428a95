//! SQLite's file as bytes: a new one is made complete and in WAL mode, and an existing one is opened in no other mode.
//!
//! In any other mode SQLite writes a rollback journal beside the file, and who may write that journal names the next file
//! that SQLite removes (a "super-journal"). A process with fewer rights could then remove any file of root's.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use crate::StoreError;

const PAGE_SIZE: usize = 4096;
/// Begins every file of SQLite.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The bytes after it of an empty database in WAL mode, up to the first page's own header (sqlite.org/fileformat2.html):
/// page size, versions to write and read (2: WAL), fractions that are fixed, no change yet, one page.
const HEADER: [u8; 16] = [0x10, 0, 2, 2, 0, 64, 32, 32, 0, 0, 0, 0, 0, 0, 0, 1];
const HEADER_SIZE: usize = 100;
/// A table's page without rows, whose content would begin at its end.
const EMPTY_PAGE: [u8; 8] = [0x0d, 0, 0, 0, 0, 0x10, 0, 0];
/// Where the versions to write and read are.
const VERSIONS: std::ops::Range<usize> = 18..20;
const WAL: [u8; 2] = [2, 2];

/// What a file contains, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A database in WAL mode.
    Wal,
    /// A database in another mode.
    OtherMode,
    /// No database of SQLite.
    Other,
}

/// Reads what a file contains.
///
/// # Errors
/// If the file can't be read.
pub fn content(file: &File) -> io::Result<Content> {
    let mut head = [0; HEADER_SIZE];
    let len = file.read_at(&mut head, 0)?;
    let head = head.get(..len).unwrap_or_default();
    Ok(match head.get(VERSIONS) {
        None if head.is_empty() => Content::Empty,
        Some(versions) if head.starts_with(MAGIC) => {
            if versions == WAL {
                Content::Wal
            } else {
                Content::OtherMode
            }
        }
        _ => Content::Other,
    })
}

/// An empty database in WAL mode.
#[must_use]
pub fn empty_database() -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &HEADER].concat();
    bytes.resize(HEADER_SIZE, 0);
    bytes.extend(EMPTY_PAGE);
    bytes.resize(PAGE_SIZE, 0);
    bytes
}

/// Makes an empty database of an empty file.
///
/// # Errors
/// If the file can't be read or written.
pub fn fill_if_empty(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.lock()?;
    // Another process may have been faster.
    if content(&file)? == Content::Empty { file.write_all(&empty_database()) } else { Ok(()) }
}

/// Refuses what SQLite would open in another mode than WAL, before SQLite sees it.
pub(super) fn require_wal(path: &Path) -> Result<(), StoreError> {
    if with_suffix(path, "-journal").symlink_metadata().is_ok() {
        return Err(unusable(
            path,
            "it has a rollback journal, which memgate never makes: restore a backup",
            None,
        ));
    }
    let found = content_of_kept(path).map_err(|error| {
        unusable(
            path,
            "check that this user may read and write it and its folder",
            Some(sqlx::Error::Io(error)),
        )
    })?;
    match found {
        Content::Wal => Ok(()),
        Content::Empty => Err(StoreError::NoTables(path.display().to_string())),
        Content::OtherMode => Err(not_in_wal_mode(path)),
        Content::Other => Err(unusable(path, "it is not a database, or is damaged: restore a backup", None)),
    }
}

/// Reads what a file contains, with a descriptor that stays open as long as the process.
///
/// When a process closes any descriptor of a file, the kernel drops all locks that it has on the file, those of SQLite's
/// connections too (sqlite.org/howtocorrupt.html, 2.2). Another process could then take itself for the last one and remove the
/// log that these connections use.
fn content_of_kept(path: &Path) -> io::Result<Content> {
    static KEPT: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let id = |meta: &Metadata| (meta.dev(), meta.ino());
    let wanted = id(&path.metadata()?);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody can open a removed file any more, so locks on it protect nothing.
    kept.retain(|file| file.metadata().is_ok_and(|meta| meta.nlink() > 0));
    for file in kept.iter() {
        if id(&file.metadata()?) == wanted {
            return content(file);
        }
    }
    // Without NONBLOCK, opening a pipe would wait for its other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = content(&file);
    kept.push(file);
    found
}

pub(super) fn not_in_wal_mode(path: &Path) -> StoreError {
    let fix = "it isn't in WAL mode: restore a backup; in a copy that nobody else may write, \
               `sqlite3 COPY 'PRAGMA journal_mode = WAL'` sets the mode";
    unusable(path, fix, None)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(suffix);
    file.into()
}

/// The error for a file that can't be used.
pub(super) fn unusable(path: &Path, fix: &str, source: Option<sqlx::Error>) -> StoreError {
    StoreError::Open { what: path.display().to_string(), fix: fix.into(), source }
}
