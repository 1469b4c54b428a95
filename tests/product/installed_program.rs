//! A program file that is an installation's own, and is replaced in upgrades.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::harness::{Installation, MEMGATE};

/// A copy of memgate that is an installation's own.
pub(crate) struct InstalledProgram(PathBuf);

impl InstalledProgram {
    pub(crate) fn install(installation: &Installation) -> Self {
        let folder = installation.dir().join("bin");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let program = Self(folder.join("memgate"));
        program.replace_by(&fs::read(MEMGATE).unwrap());
        program
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts another file in its place, as package managers do.
    pub(crate) fn replace_by(&self, bytes: &[u8]) {
        let new = self.0.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// The same program, as another file.
    pub(crate) fn replace(&self) {
        self.replace_by(&fs::read(MEMGATE).unwrap());
    }

    pub(crate) fn is_that_of(&self, pid: u32) -> bool {
        let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).unwrap();
        inode(&self.0) == inode(Path::new(&format!("/proc/{pid}/exe")))
    }
}
