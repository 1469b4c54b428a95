//! Files that contain secrets: created atomically, and refused if all users of the machine can read them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Creates a file that contains `bytes`, with `mode` less the umask from the start; `AlreadyExists` if the path is
/// taken. Other processes never see a part of it.
pub(crate) fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{:016x}.draft", rand::random::<u64>()));
    // Unlike a rename, a link never replaces a file that another process has created meanwhile.
    let made = write_draft(&draft, mode, bytes).and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    made?;
    File::open(folder)?.sync_all()
}

fn write_draft(draft: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether users other than the owner and the group have any access.
pub(crate) fn is_public(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o007 != 0
}
