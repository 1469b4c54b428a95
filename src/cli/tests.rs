//! What holds for every command: its help, and the examples in it.

use clap::{Command, CommandFactory as _};

use super::*;

/// Every command without commands below it, with its full name.
fn leaves() -> Vec<(String, Command)> {
    let mut program = Args::command();
    program.build();
    let mut found = Vec::new();
    let mut open = vec![program];
    while let Some(command) = open.pop() {
        let below: Vec<Command> =
            command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
        if below.is_empty() {
            found.push((command.get_bin_name().unwrap_or_default().to_owned(), command));
        }
        open.extend(below);
    }
    found
}

/// The command lines in a help text: `  memgate ...`, without what a pipe or a file gets, and without an explanation.
fn examples(help: &str) -> Vec<Vec<String>> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let commands = lines.filter_map(|line| Some(&line[line.find("memgate ")?..]));
    let words = |line: &str| {
        let end = [" | ", " > ", "  "].iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
        line[..end].split_whitespace().map(str::to_owned).collect()
    };
    commands.map(words).collect()
}

#[test]
fn command_definitions_are_consistent() {
    Args::command().debug_assert();
}

#[test]
fn every_command_has_examples_that_parse() {
    let mut texts: Vec<_> = leaves()
        .into_iter()
        .map(|(name, command)| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let own = examples(&help).iter().any(|words| words.join(" ").starts_with(&name));
            assert!(own, "`{name} --help` has no example of it");
            help
        })
        .collect();
    texts.push(EXAMPLES.to_owned());
    for words in texts.iter().flat_map(|text| examples(text)) {
        let parsed = Args::try_parse_from(&words);
        assert!(parsed.is_ok(), "the example {words:?}: {}", parsed.unwrap_err());
    }
}

#[test]
fn every_argument_is_explained() {
    for (name, command) in leaves() {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.split(' ').count() > 1, "{name}: {} says {help:?}", argument.get_id());
        }
    }
}

#[test]
fn a_commands_own_options_come_first() {
    for (name, mut command) in leaves() {
        let help = command.render_help().to_string();
        let (own, global) = help.split_once("Global options:").unwrap_or_else(|| panic!("{name}: {help}"));
        for option in ["--data", "--config", "--set", "--verbose", "--json"] {
            let is_listed = |help: &str| {
                help.lines().any(|line| line.trim_start_matches("  -v, ").trim().starts_with(option))
            };
            assert!(!is_listed(own) && is_listed(global), "{name}: {option}");
        }
    }
}

#[test]
fn global_options_are_accepted_anywhere() {
    for line in ["memgate --json --data d -v user list", "memgate user list --data d -v --json"] {
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        assert!(args.global.json && args.global.data == Some("d".into()), "{line}");
        assert_eq!(args.global.verbose, 1, "{line}");
    }
}

#[test]
fn version_names_the_package_and_a_commit() {
    let version = env!("BUILD_VERSION");
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
}
