//! Embeds the files of `snippets/`: writes a table of their paths and contents.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("snippets");
    println!("cargo:rerun-if-changed=snippets");
    let mut paths = Vec::new();
    list(&folder, &mut paths);
    paths.sort();
    let mut table = String::from("&[\n");
    for path in paths {
        let name = path.strip_prefix(&folder).unwrap().display();
        writeln!(table, "    (\"{name}\", include_str!({:?})),", path.display().to_string()).unwrap();
    }
    table.push_str("]\n");
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("snippets.rs"), table).unwrap();
}

/// Lists all files of a folder and its folders.
fn list(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, paths) } else { paths.push(path) }
    }
}
