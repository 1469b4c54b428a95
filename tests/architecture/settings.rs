//! docs/settings.md lists every setting with its default and its meaning, both taken from the code.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value};

use crate::source::root;

/// Writes the document instead of comparing it.
const WRITE: &str = "MEMGATE_TEST_WRITE_DOCS";

/// Each section, the file that defines it, and the name of its struct.
const SECTIONS: [(&str, &str, &str); 9] = [
    ("proxy", "proxy/src/config.rs", "Config"),
    ("webui", "webui/src/config.rs", "Config"),
    ("webui.limits", "webui/src/config.rs", "Limits"),
    ("webui.mail", "webui/src/config/mail.rs", "Mail"),
    ("webui.webhooks", "webui/src/config/webhooks.rs", "Webhooks"),
    ("provisioner", "provisioner/src/config.rs", "Config"),
    ("store", "src/settings.rs", "StoreSettings"),
    ("limits", "src/settings.rs", "LimitSettings"),
    ("log", "src/settings.rs", "LogSettings"),
];

const HEAD: &str = "\
# Settings

Every setting with its default, made from the code by `tests/architecture/settings.rs`. They are read from `memgate.toml` in the
data directory (or `--config FILE`), then from `MEMGATE_*` variables, then from `--set`; later ones take precedence. The setting
`proxy.listen` is `listen` under `[proxy]` in the file, `MEMGATE_PROXY__LISTEN` in the environment, and `--set proxy.listen=...` on
the command line. `memgate config check` prints the result and checks it.
";

#[test]
fn settings_reference_is_current() {
    let written = reference(&defaults());
    let path = root().join("docs/settings.md");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &written).unwrap();
    }
    let current = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        current == written,
        "docs/settings.md is not current: {WRITE}=1 cargo test --package memgate --test architecture settings_reference"
    );
}

/// The settings of an installation without any.
fn defaults() -> Map<String, Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MEMGATE_") {
            command.env_remove(name);
        }
    }
    // It fails if Docker isn't here; the settings are printed all the same.
    let output = command.args(["config", "check", "--json", "--data", "/nonexistent"]).output().unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let Value::Object(mut settings) = printed else { panic!("{printed}") };
    settings.remove("check");
    settings
}

fn reference(settings: &Map<String, Value>) -> String {
    for name in settings.keys() {
        assert!(SECTIONS.iter().any(|(section, ..)| section == name), "[{name}] is missing from SECTIONS");
    }
    let mut text = HEAD.to_owned();
    for (section, file, name) in SECTIONS {
        let source = fs::read_to_string(root().join(file)).unwrap();
        let values =
            section.split('.').fold(Value::Object(settings.clone()), |value, key| value[key].clone());
        let fields = fields(&source, name);
        let known = values.as_object().unwrap().keys();
        let unknown: Vec<_> = known.filter(|key| !fields.iter().any(|(name, _)| name == *key)).collect();
        assert!(unknown.is_empty(), "{file}: {name} has no comment for {unknown:?}");
        write!(text, "\n## [{section}]\n\n| setting | default | meaning |\n|---|---|---|\n").unwrap();
        for (key, meaning) in &fields {
            // What isn't among the values isn't read from files.
            if values.get(key).is_some_and(|value| !value.is_object()) {
                let meaning = meaning.replace('|', "\\|");
                writeln!(text, "| `{key}` | {} | {meaning} |", shown(&values[key])).unwrap();
            }
        }
    }
    text
}

/// The fields of a struct with their comments.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let (_, body) = source.split_once(&format!("struct {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment = format!("{comment} {}", text.trim()).trim().to_owned();
        } else if let Some((field, _)) = line.split_once(": ") {
            let field = field.rsplit(' ').next().unwrap_or_default().to_owned();
            found.push((field, std::mem::take(&mut comment)));
        }
    }
    found
}

/// As in memgate.toml.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        value => format!("`{value}`"),
    }
}

#[test]
fn fields_are_read_with_their_comments() {
    let source = "/// x\npub struct A {\n    /// One,\n    /// two.\n    pub a: u8,\n    pub(crate) b: Option<String>,\n}\n";
    let expected = [("a".to_owned(), "One, two.".to_owned()), ("b".to_owned(), String::new())];
    assert_eq!(fields(source, "A"), expected);
}
