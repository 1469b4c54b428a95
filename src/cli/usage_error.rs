//! Command lines that don't parse: which command was meant, what is wrong, and where to read on.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _, Parser as _};

use super::Args;
use crate::output::CliError;

/// Parses the command line. Prints help on stdout, or a usage error on stderr with exit status 2.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    let arguments: Vec<OsString> = without_help_for_help(std::env::args_os().collect());
    Args::try_parse_from(&arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        // The arguments didn't parse, so the option itself has to be searched for.
        _ if arguments.iter().any(|argument| argument == "--json") => {
            usage(&error, &named_command(&Args::command(), &arguments)).report(true)
        }
        _ => {
            let _ = error.print();
            ExitCode::from(2)
        }
    })
}

/// `memgate help --help` asks for the same as `memgate help`.
fn without_help_for_help(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let is_option = |argument: &&OsString| argument.to_string_lossy().starts_with('-');
    let words = arguments.iter().take_while(|argument| !is_option(argument)).count();
    if arguments[..words].iter().skip(1).any(|word| word == "help") {
        arguments.retain(|argument| argument != "--help" && argument != "-h");
    }
    arguments
}

/// The command that the arguments name, as far as it exists: `memgate user add`.
fn named_command(program: &Command, arguments: &[OsString]) -> String {
    let (mut command, mut name) = (program, program.get_name().to_owned());
    for word in arguments.iter().skip(1).filter_map(|word| OsStr::to_str(word)) {
        if let Some(found) = command.find_subcommand(word) {
            command = found;
            name = format!("{name} {}", found.get_name());
        }
    }
    name
}

/// In one line: the error with the names of its arguments, then clap's own suggestion, or how the command is used.
fn usage(error: &clap::Error, command: &str) -> CliError {
    let see = format!("see `{command} --help`");
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return CliError::usage(format!("`{command}` needs a command"), see);
    }
    let text = error.to_string();
    let (mut what, mut tips, mut form) = (Vec::new(), Vec::new(), None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            tips.push(tip);
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            form = Some(usage);
        } else if !line.starts_with("For more information") && form.is_none() {
            what.push(line.trim_start_matches("error: "));
        }
    }
    let fix = match (tips.as_slice(), form) {
        ([], Some(form)) => format!("write `{form}`; {see}"),
        ([], None) => see,
        (tips, _) => tips.join("; "),
    };
    CliError::usage(what.join(" "), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(line: &str) -> String {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = Args::try_parse_from(&arguments).unwrap_err();
        usage(&error, &named_command(&Args::command(), &arguments)).to_string()
    }

    #[test]
    fn error_in_one_line_keeps_the_arguments_name_and_the_command() {
        for (line, parts) in [
            ("memgate user add", ["<EMAIL>", "`memgate user add --help`"].as_slice()),
            ("memgate token create --name x", &["<EMAIL>", "`memgate token create --help`"]),
            ("memgate user add a@b.example --plann x", &["'--plann'", "'--plan'"]),
            ("memgate user ad", &["'ad'", "'add'"]),
            ("memgate user", &["`memgate user` needs a command", "`memgate user --help`"]),
            ("memgate audit list --limit 0", &["'0'", "--limit", "from 1", "`memgate audit list --help`"]),
            ("memgate down --data", &["--data <DIR>", "`memgate down --help`"]),
        ] {
            let error = error_of(line);
            for part in parts {
                assert!(error.contains(part) && !error.contains('\n'), "{line}: {error}");
            }
        }
    }

    #[test]
    fn help_of_help_is_help() {
        let with = |line: &str| {
            let arguments = without_help_for_help(line.split(' ').map(OsString::from).collect());
            Args::try_parse_from(arguments).unwrap_err().kind()
        };
        for line in
            ["memgate help --help", "memgate help -h", "memgate user help --help", "memgate help user -h"]
        {
            assert_eq!(with(line), ErrorKind::DisplayHelp, "{line}");
        }
    }
}
