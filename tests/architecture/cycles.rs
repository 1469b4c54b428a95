//! No module imports, through others, itself.
//!
//! A module is a file. A module and its children, and theirs, may use each other freely: they are one unit that
//! was split for its length. All other imports must form no cycle; re-exports are followed to their origin.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, Source};

type Path = Vec<String>;

/// How many re-exports are followed from a name to its origin.
const REEXPORTS_MAX: usize = 8;

/// The modules of one crate, without those compiled for tests only.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Path, Module>,
}

#[derive(Default)]
struct Module {
    /// Names brought into scope, and the absolute paths behind them.
    names: BTreeMap<String, Path>,
    /// Absolute paths that the module's code names.
    uses: BTreeSet<Path>,
}

#[test]
fn no_import_cycles() {
    let mut found = Vec::new();
    for folder in super::crates() {
        let src = format!("{folder}/src/");
        let src = src.trim_start_matches("./");
        let files = source::files(src, &[".rs"]);
        let sources = files.iter().map(|file| (module_path(&file.path[src.len()..]), file.text.as_str()));
        for cycle in Crate::parse(sources.collect()).cycles() {
            found.push(format!("{folder}: {cycle}"));
        }
    }
    assert!(found.is_empty(), "imports that form a cycle:\n{}", found.join("\n"));
}

/// `lane/encode.rs` is `["lane", "encode"]`; the crate's root is empty.
fn module_path(file: &str) -> Path {
    let name = file.trim_end_matches(".rs");
    let root = matches!(name, "lib" | "main");
    if root { Path::new() } else { name.split('/').map(str::to_owned).collect() }
}

impl Crate {
    fn parse(sources: Vec<(Path, &str)>) -> Self {
        let parsed: Vec<(Path, Source)> =
            sources.into_iter().map(|(path, text)| (path, Source::parse(text))).collect();
        let tests: Vec<Path> = parsed.iter().flat_map(|(path, source)| test_modules(path, source)).collect();
        let mut all = Self::default();
        for (path, source) in &parsed {
            if !tests.iter().any(|test| path.starts_with(test)) {
                all.modules.insert(path.clone(), Module::default());
                let module = Module::parse(path, &source.product_code());
                all.modules.insert(path.clone(), module);
            }
        }
        all
    }

    /// The module that a path leads to, re-exports followed; none if it leads out of the crate.
    fn target(&self, path: &[String], steps: usize) -> Option<Path> {
        let len = (0..=path.len()).rev().find(|len| self.modules.contains_key(&path[..*len]))?;
        let (module, rest) = path.split_at(len);
        let Some(behind) = rest.first().and_then(|name| self.modules[module].names.get(name)) else {
            return Some(module.to_vec());
        };
        let longer = [behind.as_slice(), &rest[1..]].concat();
        if steps == 0 || longer == path { Some(module.to_vec()) } else { self.target(&longer, steps - 1) }
    }

    /// Every import that lies on a cycle.
    fn cycles(&self) -> Vec<String> {
        let mut edges: BTreeMap<(&Path, Path), &Path> = BTreeMap::new();
        for (from, module) in &self.modules {
            for used in &module.uses {
                let Some(to) = self.target(used, REEXPORTS_MAX) else { continue };
                if !from.starts_with(&to) && !to.starts_with(from) {
                    edges.entry((from, to)).or_insert(used);
                }
            }
        }
        let reaches = |start: &Path, goal: &Path| {
            let mut seen = BTreeSet::from([start]);
            let mut next = vec![start];
            while let Some(at) = next.pop() {
                let found = edges.keys().filter(|(from, _)| *from == at).map(|(_, to)| to);
                next.extend(found.filter(|to| seen.insert(*to)));
            }
            seen.contains(goal)
        };
        let on_cycle = edges.iter().filter(|((from, to), _)| reaches(to, from));
        on_cycle.map(|((from, _), used)| format!("{} imports {}", from.join("::"), used.join("::"))).collect()
    }
}

/// Modules that a source declares for tests only.
fn test_modules(path: &[String], source: &Source) -> Vec<Path> {
    let mut found = Vec::new();
    for after in source.code.split("#[cfg(test)]").skip(1) {
        let item = after.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if let Some(name) = item.strip_prefix("mod ")
            && let Some((name, _)) = name.split_once(';')
        {
            found.push([path, &[name.trim().to_owned()]].concat());
        }
    }
    found
}

impl Module {
    fn parse(path: &[String], code: &str) -> Self {
        let mut module = Self::default();
        let mut rest = code.to_owned();
        for (start, end) in use_items(code) {
            let tree = code[start..end].trim_end_matches(';').trim();
            for (name, used) in expand(tree, &[]) {
                // `use child::Name` leads to a child, and to another crate if there is no such child.
                if let Some(absolute) = absolute(path, &used) {
                    module.uses.insert(absolute.clone());
                    module.names.insert(name, absolute);
                } else if let Some(first) = used.first()
                    && code.contains(&format!("mod {first};"))
                {
                    module.names.insert(name, [path, used.as_slice()].concat());
                }
            }
            rest.replace_range(start..end, &" ".repeat(end - start));
        }
        for used in inline_paths(&rest) {
            module.uses.extend(absolute(path, &used));
        }
        module
    }
}

/// Where the trees of `use` items begin and end, without the keyword.
fn use_items(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let starts_item = code[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == ')');
        if starts_item && let Some(len) = code[at..].find(';') {
            found.push((at + "use ".len(), at + len));
        }
    }
    found
}

/// The paths of a tree such as `a::{b, c as d}`, each with the name that it brings into scope.
fn expand(tree: &str, prefix: &[String]) -> Vec<(String, Path)> {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let group = group.trim_end().trim_end_matches('}');
        let prefix = [prefix, &segments(head)].concat();
        return split_group(group).into_iter().flat_map(|part| expand(part, &prefix)).collect();
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
    let mut path = [prefix, &segments(path)].concat();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self" || last == "*") {
        path.pop();
    }
    let name = alias.map(|alias| alias.trim().to_owned()).or_else(|| path.last().cloned());
    name.map(|name| (name, path)).into_iter().collect()
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The parts of a group, split at commas outside of inner groups.
fn split_group(group: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

/// Paths in the code that begin with `crate`, `super` or `self`.
fn inline_paths(code: &str) -> Vec<Path> {
    let words = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    code.split(words)
        .filter(|word| ["crate::", "super::", "self::"].iter().any(|start| word.starts_with(start)))
        .map(segments)
        .collect()
}

/// A path from the crate's root, or none if it doesn't say that it stays in the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Path> {
    let mut at = module.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    Some([at.as_slice(), rest].concat())
}

fn cycles_in(sources: &[(&str, &str)]) -> Vec<String> {
    Crate::parse(sources.iter().map(|(file, text)| (module_path(file), *text)).collect()).cycles()
}

#[test]
fn modules_that_import_each_other_are_a_cycle() {
    let sources = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod c; use crate::b::B;"),
        ("a/c.rs", "pub struct C;"),
        ("b.rs", "fn f(c: &crate::a::c::C) {}"),
        ("a/c.rs", "use crate::{a, b as d}; pub struct C;"),
    ];
    assert_eq!(cycles_in(&sources[..4]), Vec::<String>::new());
    assert_eq!(cycles_in(&sources), ["a::c imports b", "b imports a::c::C"]);
}

#[test]
fn a_reexport_hides_no_cycle() {
    let sources = [
        ("lib.rs", "mod a; mod b; pub use b::B;"),
        ("a.rs", "use crate::{B, Other};"),
        ("b.rs", "use super::a;"),
    ];
    assert_eq!(cycles_in(&sources), ["a imports B", "b imports a"]);
}

#[test]
fn parents_children_and_tests_are_no_cycle() {
    let sources = [
        ("lib.rs", "mod a; use a::A; #[cfg(test)] mod tests;"),
        ("a.rs", "mod b; use b::B; pub struct A; #[cfg(test)] mod t { use crate::tests; }"),
        ("a/b.rs", "use super::A;"),
        ("tests.rs", "use crate::a::A;"),
    ];
    assert_eq!(cycles_in(&sources), Vec::<String>::new());
}
