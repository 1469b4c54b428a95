//! A file that a test checks for changes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file of root's that an attacker would like to have.
pub(crate) struct Victim {
    pub(crate) path: PathBuf,
    before: (u32, u32, u32, u64, u64),
}

impl Victim {
    const TEXT: &str = "root's secret line\n";

    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("victim");
        fs::write(&path, Self::TEXT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        Self { before: Self::state(&path), path }
    }

    fn state(path: &Path) -> (u32, u32, u32, u64, u64) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.mode(), meta.uid(), meta.gid(), meta.ino(), meta.nlink())
    }

    pub(crate) fn assert_unchanged(&self, after: &str) {
        assert_eq!(Self::state(&self.path), self.before, "{after}");
        assert_eq!(fs::read_to_string(&self.path).unwrap(), Self::TEXT, "{after}");
    }
}
