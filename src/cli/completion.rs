//! `memgate completion` and `memgate manpage`: what shells and `man` know about the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Args;
use crate::output::{self, CliError};

/// Print a script that completes commands and options
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate completion bash > /etc/bash_completion.d/memgate
  memgate completion zsh > /usr/local/share/zsh/site-functions/_memgate
  memgate completion fish > ~/.config/fish/completions/memgate.fish

A new shell then completes commands and options with Tab.")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let mut command = Args::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        output::write_out(&String::from_utf8_lossy(&script))
    }
}

/// The manual page of all commands: that of `memgate`, then one section for each command.
pub(crate) fn print_manpage() -> Result<(), CliError> {
    let mut page = Vec::new();
    let mut command = Args::command();
    command.build();
    let failed =
        |error: std::io::Error| CliError::new(format!("can't make the page ({error})"), "report this bug");
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    for family in command.get_subcommands() {
        add_sections(family, &mut page).map_err(failed)?;
    }
    output::write_out(&String::from_utf8_lossy(&page))
}

/// Appends a command and the commands below it, each with its form, options and examples.
fn add_sections(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    if command.get_name() == "help" || command.is_hide_set() {
        return Ok(());
    }
    if command.has_subcommands() {
        return command.get_subcommands().try_for_each(|command| add_sections(command, page));
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    page.extend(format!(".SH \"{}\"\n", name.to_uppercase()).bytes());
    let man = clap_mangen::Man::new(command.clone());
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    man.render_extra_section(page)
}
