//! `memgate debug`: a file for those who help with a problem: what memgate, its store and Docker say of themselves, without anything secret.

mod contents;
mod redaction;
mod settings;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::contents::Entry;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::trusted_folder::{self, Use};

/// Write a file for those who help with a problem: status, checks, metrics, log; no secrets and no e-mail addresses
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate debug
  memgate debug /root/memgate-debug.tar --log /var/log/memgate.log

It holds versions, settings (numbers, and texts that can't be secret), the findings of `memgate doctor`, status, health and
metrics of all roles, how many rows each table has, Docker's version, the containers, and the end of the log: of systemd's
journal, or of the file in --log. Passwords, keys, tokens and e-mail addresses are left out; look at it before you send it all the
same (`tar -xOf FILE`): a log may name other things that you keep to yourself.")]
pub(crate) struct Debug {
    /// The file to write, which must not exist [default: memgate-debug-TIME.tar]
    file: Option<PathBuf>,
    /// The file with memgate's log, if that isn't systemd's journal
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    bytes: u64,
    entries: Vec<&'static str>,
}

impl Debug {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let named = || PathBuf::from(format!("memgate-debug-{}.tar", store::now()));
        let file = self.file.clone().unwrap_or_else(named);
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        trusted_folder::require(parent, Use::Shared)?;
        // First: a file that can't be written is told before Docker is asked.
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        let to = to.map_err(|error| file_error(&file, &error))?;
        let runtime = runtime()?;
        let entries = contents::collect(global, &DataDir::of(global), self.log.as_deref(), &runtime);
        // What hangs is left behind.
        runtime.shutdown_background();
        let written = entries.and_then(|entries| {
            write(to, &entries).map_err(|error| file_error(&file, &error)).map(|bytes| (entries, bytes))
        });
        let (entries, bytes) = written.inspect_err(|_| {
            let _ = std::fs::remove_file(&file);
        })?;
        let done = Written { file, bytes, entries: entries.iter().map(|entry| entry.name).collect() };
        output::print(global.json, &done, || {
            format!(
                "{}: {} KB. Look at it before you send it.",
                done.file.display(),
                done.bytes.div_ceil(1024)
            )
        })
    }
}

/// Returns the length of the archive.
fn write(to: File, entries: &[Entry]) -> io::Result<u64> {
    let mut archive = tar::Builder::new(io::BufWriter::new(to));
    let seconds = u64::try_from(store::now().as_millis() / 1000).unwrap_or_default();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(u64::try_from(entry.text.len()).unwrap_or(u64::MAX));
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("memgate-debug/{}", entry.name), entry.text.as_bytes())?;
    }
    let mut written = archive.into_inner()?;
    written.flush()?;
    Ok(written.get_ref().metadata()?.len())
}

fn file_error(path: &Path, error: &io::Error) -> CliError {
    let what = format!("can't write {} ({error})", path.display());
    CliError::new(what, "name a file that doesn't exist, in a folder that you may write, and check its disk")
}
