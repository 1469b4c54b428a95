//! Files with secrets in them: made whole or not at all, and never read if everybody else could.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a file that holds `bytes`; `AlreadyExists` if there is one. Nobody ever sees a part of it, and
/// nobody but those named in `mode` (less the umask) ever has access.
pub(crate) fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{:016x}.draft", rand::random::<u64>()));
    // Unlike a rename, a link never takes the place of what another process made meanwhile.
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
