//! SQLite's files: their modes, and the errors when they can't be opened.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use store::{Database, Store, StoreError};

use crate::concurrent_process::{self, Task};
use crate::test_db::TestDb;

#[tokio::test]
async fn new_database_files_are_readable_by_owner_and_group_only() {
    for (umask, expected) in [("000", "660"), ("002", "660"), ("022", "640"), ("077", "600")] {
        let db = TestDb::sqlite();
        let mut modes = concurrent_process::run(&db.database(), Task::Modes { umask }).await;
        modes.sort();
        let files = ["memgate.db", "memgate.db-shm", "memgate.db-wal"];
        assert_eq!(modes, files.map(|file| format!("{file} {expected}")), "umask {umask}");
    }
}

// W-14.
#[tokio::test]
async fn world_readable_database_file_is_refused() {
    for suffix in ["", "-wal", "-shm"] {
        let db = TestDb::sqlite();
        let store = db.open().await;
        store.record_installation_id("abc234").await.unwrap();
        let Database::Sqlite(path) = db.database() else { unreachable!() };
        let file = path.with_file_name(format!("memgate.db{suffix}"));
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let error = Store::open(&db.database()).await.unwrap_err();
        assert!(matches!(&error, StoreError::WorldReadable(which) if *which == file), "{error:?}");
        assert!(error.to_string().contains("chmod o= "), "{error}");
    }
}

#[tokio::test]
async fn open_error_names_the_path_and_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a-folder")).unwrap();
    std::fs::set_permissions(folder.path().join("a-folder"), Permissions::from_mode(0o700)).unwrap();
    std::fs::write(folder.path().join("a-letter"), "Dear Ada, this is not a database at all.").unwrap();
    std::fs::set_permissions(folder.path().join("a-letter"), Permissions::from_mode(0o600)).unwrap();
    let cases = [
        ("nowhere/memgate.db", "create its folder first"),
        ("a-letter/memgate.db", "create its folder first"),
        ("a-folder", "name a file in it"),
        ("a-letter", "is not a database"),
    ];
    for (name, fix) in cases {
        let path = folder.path().join(name);
        let error = Store::open(&Database::Sqlite(path.clone())).await.unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.to_string().contains(fix), "{name}: {error}");
    }
    assert!(!folder.path().join("nowhere").exists());
}

/// The locks that this process has on a file.
fn own_locks(path: &Path) -> usize {
    let (own, inode) = (std::process::id().to_string(), format!(":{}", fs::metadata(path).unwrap().ino()));
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let is_own = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(4) == Some(&&*own) && fields.get(5).is_some_and(|file| file.ends_with(&inode))
    };
    locks.lines().filter(is_own).count()
}

// Closing any descriptor of the file would drop them, and another process could remove the log that is in use.
#[tokio::test]
async fn looking_into_the_file_drops_no_locks_on_it() {
    let db = TestDb::sqlite();
    let first = db.open().await;
    let Database::Sqlite(path) = db.database() else { unreachable!() };
    let locks = own_locks(&path);
    assert!(locks > 0, "SQLite holds a lock as long as it is connected");
    let second = db.open_existing().await.unwrap();
    second.close().await;
    assert_eq!(own_locks(&path), locks);
    first.close().await;
}
