//! Help, completion, the manual page, the version; and usage errors for scripts.

use std::process::{Command, Stdio};

use super::failure;
use crate::harness::Installation;

#[test]
fn help_has_examples() {
    let installation = Installation::new();
    for (arguments, word) in [
        (["--help"].as_slice(), "Examples:"),
        (&["help", "--help"], "Examples:"),
        (&["user", "add", "--help"], "--password-stdin"),
        (&["token", "create", "--help"], "jq"),
        (&["down", "--help"], "--purge"),
        (&["up", "--help"], "11211"),
    ] {
        let output = installation.run(arguments);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{arguments:?}");
    }
}

#[test]
fn usage_errors_in_json_name_the_argument() {
    let installation = Installation::new();
    for (arguments, parts) in [
        (["user", "add"].as_slice(), ["<EMAIL>", "`memgate user add --help`"]),
        (&["token", "revoke"], ["<ID>", "`memgate token revoke --help`"]),
        (&["user", "add", "a@b.example", "--paln", "x"], ["'--paln'", "'--plan'"]),
        (&["audit", "list", "--limit", "0"], ["'--limit <N>'", "from 1 to"]),
        (&["plan", "create", "x", "--memory-mb", "much"], ["'--memory-mb <MB>'", "whole number"]),
    ] {
        let (error, fix) = failure(&installation, arguments, 2);
        let told = format!("{error}: {fix}");
        assert!(parts.iter().all(|part| told.contains(part)), "{arguments:?}: {told}");
        assert!(!told.contains("9223372036854775807"), "{told}");
    }
}

#[test]
fn shells_complete_commands_and_options() {
    let installation = Installation::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = installation.run(&["completion", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("reset-password"), "{shell}: {script}");
    }
    // In a bash: what follows `memgate user re`.
    let complete = "source <(\"$0\" completion bash); COMP_WORDS=(memgate user re); COMP_CWORD=2; \
                    _memgate memgate re user; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", complete, crate::harness::MEMGATE]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        words.lines().collect::<Vec<_>>(),
        ["resume", "reset-password", "reset-second-factor"],
        "{output:?}"
    );
    failure(&installation, &["completion", "csh-of-old"], 2);
}

#[test]
fn manual_page_names_every_command() {
    let output = Installation::new().run(&["manpage"]);
    let page = String::from_utf8(output.stdout).unwrap();
    for part in [".TH memgate", "MEMGATE USER ADD", "MEMGATE PLAN DELETE", "MEMGATE UP", "password\\-stdin"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    if let Ok(mut man) = Command::new("man")
        .args(["--warnings", "-l", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
    {
        use std::io::Write as _;
        man.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        assert!(man.wait().unwrap().success());
    }
}

#[test]
fn version_names_the_package_and_its_commit() {
    let output = Installation::new().run(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.trim_end().strip_prefix("memgate ").unwrap();
    let (version, commit) = version.split_once(' ').unwrap_or((version, "(none)"));
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let commit = commit.trim_start_matches('(').trim_end_matches(')');
    assert!(commit == "none" || commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
}
