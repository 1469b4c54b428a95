//! A backup: one tar file with a manifest, the files of the data directory, and the database.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data_dir::backup::{FILE_LENGTH_MAX, is_backed_up, required};
use crate::output::CliError;

const MANIFEST: &str = "manifest.json";
/// The database of a backup.
const SQLITE: &str = "memgate.db";
const POSTGRES: &str = "postgres.dump";
/// The version of this format.
const FORMAT: u32 = 1;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// The version of memgate that made it.
    pub(crate) version: String,
    pub(crate) installation: String,
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) database: DatabaseKind,
}

/// Which database a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DatabaseKind {
    /// A file.
    Sqlite,
    /// What `pg_dump` wrote.
    Postgres,
}

impl DatabaseKind {
    fn file(self) -> &'static str {
        match self {
            Self::Sqlite => SQLITE,
            Self::Postgres => POSTGRES,
        }
    }
}

impl Manifest {
    pub(crate) fn new(installation: String, database: DatabaseKind) -> Self {
        let (format, version) = (FORMAT, env!("BUILD_VERSION").to_owned());
        Self { format, version, installation, created_at: store::now().as_millis(), database }
    }
}

/// Writes a backup to a new file.
///
/// # Errors
/// If something can't be read or written.
pub(crate) fn write(
    to: File,
    manifest: &Manifest,
    files: &[(&'static str, Vec<u8>)],
    database: &Path,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::new(to));
    let json = serde_json::to_vec_pretty(manifest)?;
    let bytes = files.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in [(MANIFEST, json.as_slice())].into_iter().chain(bytes) {
        append(&mut archive, manifest, name, bytes.len().try_into().unwrap_or(u64::MAX), bytes)?;
    }
    let file = File::open(database)?;
    let len = file.metadata()?.len();
    append(&mut archive, manifest, manifest.database.file(), len, file)?;
    let mut written = archive.into_inner()?;
    written.flush()?;
    written.get_ref().sync_all()
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    manifest: &Manifest,
    name: &str,
    len: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(len);
    header.set_mtime(u64::try_from(manifest.created_at / 1000).unwrap_or_default());
    archive.append_data(&mut header, name, content)
}

/// Reads a backup: first its small files, then the database as a stream. Nothing is written by the names in it.
///
/// # Errors
/// If it is no backup, of a later format, incomplete, or holds something else; or what `restore` returns.
pub(crate) fn read<T>(
    from: File,
    restore: impl FnOnce(&Manifest, &[(String, Vec<u8>)], &mut dyn Read) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let mut archive = tar::Archive::new(io::BufReader::new(from));
    let entries = archive.entries().map_err(|error| not_a_backup(&error.to_string()))?;
    let mut manifest: Option<Manifest> = None;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in entries {
        let mut entry = entry.map_err(|error| not_a_backup(&error.to_string()))?;
        let name = entry.path().ok().and_then(|path| Some(path.to_str()?.to_owned())).unwrap_or_default();
        if !entry.header().entry_type().is_file() {
            return Err(not_a_backup("it holds something else than files"));
        }
        let Some(manifest) = &manifest else {
            if name != MANIFEST {
                return Err(not_a_backup("it doesn't begin with a manifest"));
            }
            manifest = Some(parse_manifest(&small(&mut entry)?)?);
            continue;
        };
        if name == manifest.database.file() {
            if let Some(missing) = required().iter().find(|name| !files.iter().any(|(it, _)| it == *name)) {
                return Err(not_a_backup(&format!("it has no {missing}")));
            }
            let mut database = Whole { left: entry.size(), content: &mut entry, is_cut: false };
            let restored = restore(manifest, &files, &mut database);
            return if database.is_cut { Err(not_a_backup("it was cut")) } else { restored };
        }
        if !is_backed_up(&name) || files.iter().any(|(it, _)| *it == name) {
            return Err(not_a_backup(&format!("it holds {}", name.escape_default())));
        }
        files.push((name, small(&mut entry)?));
    }
    Err(not_a_backup("it has no database: it was cut"))
}

/// Content of which every byte is there: an archive that was cut ends as an archive does.
struct Whole<R> {
    content: R,
    left: u64,
    /// Whether the end came before the last byte.
    is_cut: bool,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if read == 0 && !buffer.is_empty() && self.left > 0 {
            self.is_cut = true;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}

fn small(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = entry.by_ref().take(FILE_LENGTH_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| not_a_backup(&error.to_string()))?;
    match u64::try_from(bytes.len()) {
        Ok(length @ ..=FILE_LENGTH_MAX) if length == entry.size() => Ok(bytes),
        Ok(..=FILE_LENGTH_MAX) => Err(not_a_backup("it was cut")),
        _ => Err(not_a_backup("a file in it is too long")),
    }
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, CliError> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|_| not_a_backup("its manifest can't be read"))?;
    if manifest.format > FORMAT {
        return Err(CliError::new(
            format!(
                "the backup was made by memgate {}, in a later format",
                manifest.version.escape_default()
            ),
            "restore it with that version",
        ));
    }
    Ok(manifest)
}

fn not_a_backup(why: &str) -> CliError {
    CliError::new(
        format!("this is no backup of memgate ({why})"),
        "name a file that `memgate backup` has written",
    )
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    const FILES: [&str; 3] = ["installation.id", "token.key", "lane.key"];

    fn archive(entries: &[(&str, &[u8])]) -> File {
        let manifest = Manifest::new("3irpac".to_owned(), DatabaseKind::Sqlite);
        let mut file = tempfile::tempfile().unwrap();
        let mut archive = tar::Builder::new(&mut file);
        for (name, bytes) in entries {
            append(&mut archive, &manifest, name, bytes.len() as u64, *bytes).unwrap();
        }
        archive.finish().unwrap();
        drop(archive);
        file.rewind().unwrap();
        file
    }

    fn manifest(format: u32) -> Vec<u8> {
        let manifest = Manifest { format, ..Manifest::new("3irpac".to_owned(), DatabaseKind::Sqlite) };
        serde_json::to_vec(&manifest).unwrap()
    }

    #[test]
    fn backup_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("db");
        std::fs::write(&database, b"rows").unwrap();
        let path = folder.path().join("backup.tar");
        let written = Manifest::new("3irpac".to_owned(), DatabaseKind::Sqlite);
        let files: Vec<(&'static str, Vec<u8>)> =
            FILES.iter().map(|name| (*name, name.as_bytes().to_vec())).collect();
        write(File::create(&path).unwrap(), &written, &files, &database).unwrap();
        read(File::open(&path).unwrap(), |manifest, read, database| {
            assert_eq!(manifest, &written);
            assert!(read.iter().all(|(name, bytes)| bytes == name.as_bytes()) && read.len() == 3);
            let mut rows = String::new();
            database.read_to_string(&mut rows).unwrap();
            assert_eq!(rows, "rows");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn backup_that_was_cut_is_refused() {
        let manifest = manifest(1);
        let database = vec![b'x'; 100_000];
        let entries: Vec<(&str, &[u8])> = [(MANIFEST, manifest.as_slice())]
            .into_iter()
            .chain(FILES.map(|name| (name, name.as_bytes())))
            .chain([(SQLITE, database.as_slice())])
            .collect();
        let copy = |_: &Manifest, _: &[(String, Vec<u8>)], database: &mut dyn Read| {
            let copied = io::copy(database, &mut io::sink());
            copied.map_err(|error| CliError::new(error.to_string(), "free some space"))
        };
        let length = archive(&entries).metadata().unwrap().len();
        assert_eq!(read(archive(&entries), copy).unwrap(), 100_000);
        // Within the manifest, a key, the database's header and the database.
        for left in [520, 2_060, length - 1_024 - 100_352 - 100, 50_000, length - 1_024 - 400] {
            let file = archive(&entries);
            file.set_len(left).unwrap();
            let error = read(file, copy).unwrap_err().to_string();
            assert!(error.contains("no backup of memgate"), "{left}: {error}");
        }
        let file = archive(&entries);
        file.set_len(50_000).unwrap();
        assert!(read(file, copy).unwrap_err().to_string().contains("it was cut"));
    }

    #[test]
    fn other_files_are_refused_before_anything_is_written() {
        let good = manifest(1);
        let long = vec![b'x'; usize::try_from(FILE_LENGTH_MAX).unwrap() + 1];
        let with = |more: &[(&'static str, &'static [u8])]| {
            let mut entries: Vec<(&str, Vec<u8>)> = vec![(MANIFEST, good.clone())];
            entries.extend(more.iter().map(|(name, bytes)| (*name, bytes.to_vec())));
            entries
        };
        let mut too_long = with(&[]);
        too_long.push(("token.key", long));
        for (entries, why) in [
            (vec![("installation.id", b"a".to_vec())], "manifest"),
            (vec![(MANIFEST, b"{}".to_vec())], "manifest"),
            (vec![(MANIFEST, manifest(2))], "later format"),
            (with(&[("etc/passwd", b"root")]), "it holds etc/passwd"),
            (with(&[("server.key", b"x")]), "it holds server.key"),
            (with(&[("token.key", b"x"), ("token.key", b"y")]), "it holds token.key"),
            (with(&[("installation.id", b"x"), ("token.key", b"x"), (SQLITE, b"x")]), "no lane.key"),
            (with(&[("installation.id", b"x"), ("token.key", b"x"), ("lane.key", b"x")]), "no database"),
            (too_long, "too long"),
        ] {
            let entries: Vec<(&str, &[u8])> =
                entries.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let error =
                read(archive(&entries), |_, _, _| -> Result<(), CliError> { panic!("{why}: it was read") })
                    .unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
