//! What is in `snippets/`: languages and frameworks, and for each a few libraries with their files.

use std::sync::LazyLock;

use serde::Deserialize;

/// Path and contents of each file.
static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/snippets.rs"));

/// A configuration of stunnel for libraries without TLS.
pub(crate) const STUNNEL: &str = include_str!("../../../snippets/stunnel.conf");

/// The same for libraries that have no login either: stunnel logs in, with a client certificate.
pub(crate) const STUNNEL_CERTIFICATE: &str = include_str!("../../../snippets/stunnel_certificate.conf");

static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(load);

/// A language or a framework.
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) kind: Kind,
    /// The one to take first comes first.
    pub(crate) libraries: Vec<Library>,
    pub(crate) cannot_log_in: Vec<CannotLogIn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Language,
    Framework,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Language, Self::Framework];

    /// For element ids.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Language => "languages",
            Self::Framework => "frameworks",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Language => "Languages",
            Self::Framework => "Frameworks",
        }
    }
}

/// A library with neither a login nor TLS, which connects through stunnel only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CannotLogIn {
    pub(crate) library: String,
    /// The id of its own snippet.
    pub(crate) snippet: String,
    /// The library to use in its place.
    pub(crate) instead: String,
}

/// A library and its files.
pub(crate) struct Library {
    /// `python-pymemcache`.
    pub(crate) id: String,
    pub(crate) about: About,
    /// With TLS and a login.
    pub(crate) tls: Option<&'static str>,
    /// With TLS and a client certificate.
    pub(crate) certificate: Option<&'static str>,
    /// With a login, without TLS.
    pub(crate) plain: Option<&'static str>,
    /// With neither, for stunnel with a client certificate.
    pub(crate) without_login: Option<&'static str>,
    /// What to do with the cache, if the others are configuration.
    pub(crate) usage: Option<&'static str>,
}

/// `about.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    pub(crate) library: String,
    /// A command, or a line of a build file; empty if there is nothing to install.
    #[serde(default)]
    pub(crate) install: String,
    /// Where the code goes, if that isn't the reader's choice.
    #[serde(default)]
    pub(crate) file: String,
    /// Where certificates go.
    #[serde(default = "working_folder")]
    pub(crate) folder: String,
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

fn working_folder() -> String {
    "in the folder in which your application starts".to_owned()
}

/// An entry of `index.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    title: String,
    kind: Kind,
    libraries: Vec<String>,
    #[serde(default)]
    cannot_log_in: Vec<CannotLogIn>,
}

/// All languages and frameworks, in the order of the page.
pub(crate) fn groups() -> &'static [Group] {
    &GROUPS
}

/// The library with this id.
pub(crate) fn find(id: &str) -> Option<(&'static Group, &'static Library)> {
    groups().iter().find_map(|group| Some((group, group.libraries.iter().find(|it| it.id == id)?)))
}

impl Group {
    /// The libraries that can connect.
    pub(crate) fn available(&self, has_tls: bool) -> impl Iterator<Item = &Library> {
        self.libraries.iter().filter(move |it| has_tls || it.plain.is_some())
    }
}

/// The files are part of the program, so a mistake in them is one in the code, which a test finds.
fn load() -> Vec<Group> {
    let entries: Vec<Entry> = parse("index.json");
    let group = |Entry { id, title, kind, libraries, cannot_log_in }: Entry| {
        let libraries = libraries.iter().map(|library| Library::load(&id, library)).collect();
        Group { title, kind, libraries, cannot_log_in }
    };
    entries.into_iter().map(group).collect()
}

impl Library {
    fn load(group: &str, library: &str) -> Self {
        let folder = format!("{group}/{library}/");
        let file = |stem: &str| {
            let is_it =
                |path: &str| path.strip_prefix(&folder)?.strip_prefix(stem)?.strip_prefix('.').map(|_| ());
            FILES.iter().find(|(path, _)| is_it(path).is_some()).map(|(_, text)| *text)
        };
        Self {
            id: format!("{group}-{library}"),
            about: parse(&format!("{folder}about.json")),
            tls: file("tls"),
            certificate: file("certificate"),
            plain: file("plain"),
            without_login: file("without_login"),
            usage: file("usage"),
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let file = FILES.iter().find(|(path, _)| *path == name);
    let (_, text) = file.unwrap_or_else(|| panic!("snippets/{name} is missing"));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("snippets/{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_used() {
        let mut used =
            BTreeSet::from(["index.json", "stunnel.conf", "stunnel_certificate.conf"].map(str::to_owned));
        let entries: Vec<Entry> = parse("index.json");
        for (entry, group) in entries.iter().zip(groups()) {
            for (name, library) in entry.libraries.iter().zip(&group.libraries) {
                let folder = format!("{}/{name}", entry.id);
                used.insert(format!("{folder}/about.json"));
                let ways = [library.tls, library.certificate, library.plain, library.without_login];
                let texts = ways.iter().copied().chain([library.usage]);
                for text in texts.flatten() {
                    let is_it = |path: &str, content: &str| {
                        path.starts_with(&format!("{folder}/")) && std::ptr::eq(content, text)
                    };
                    used.extend(
                        FILES
                            .iter()
                            .filter(|(path, text)| is_it(path, text))
                            .map(|(path, _)| (*path).to_owned()),
                    );
                }
                assert!(ways.iter().any(Option::is_some), "{folder} has no code");
            }
        }
        let files: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(files, used);
    }

    #[test]
    fn ids_are_found_and_need_no_quoting() {
        let ids: Vec<&str> = groups().iter().flat_map(|it| &it.libraries).map(|it| it.id.as_str()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        for id in ids {
            assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id}");
            assert_eq!(find(id).unwrap().1.id, id);
        }
        assert!(find("python").is_none() && find("").is_none());
    }

    #[test]
    fn each_library_that_cannot_log_in_has_a_snippet_and_a_better_one() {
        let libraries = || groups().iter().flat_map(|group| &group.libraries);
        let named: BTreeSet<&str> =
            groups().iter().flat_map(|group| &group.cannot_log_in).map(|it| it.snippet.as_str()).collect();
        for id in &named {
            let (_, library) = find(id).unwrap_or_else(|| panic!("{id} isn't a snippet"));
            assert!(library.without_login.is_some(), "{id}");
        }
        let only_stunnel = |it: &&Library| it.tls.or(it.certificate).or(it.plain).is_none();
        let only_stunnel = libraries().filter(only_stunnel).map(|it| it.id.as_str());
        // Shell's has a better one beside it, which needs no word.
        let only_stunnel: BTreeSet<&str> = only_stunnel.filter(|id| !id.starts_with("shell-")).collect();
        assert_eq!(named, only_stunnel);
    }
}
