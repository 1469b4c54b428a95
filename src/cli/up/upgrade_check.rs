//! `memgate up --check`: whether this program could take over from the one that runs, with the settings, files and store as they
//! are. Changes nothing. The program that runs asks this of the one on disk before an upgrade.

use crate::cli::config::check::Findings;
use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::runtime;
use crate::settings::Settings;

/// Prints this program's version if it could.
///
/// # Errors
/// All reasons why not.
pub(super) fn run(settings: &Settings, data_dir: &DataDir) -> Result<(), CliError> {
    let mut checked = settings.clone();
    data_dir.use_own_certificate(&mut checked);
    let problems = Findings::of(&checked, data_dir).problems;
    let problems = problems.into_iter().map(|problem| (problem.error, problem.fix));
    CliError::all(problems).map_or(Ok(()), Err)?;
    runtime()?.block_on(data_dir.require_usable_store(settings))?;
    println!("{}", env!("BUILD_VERSION"));
    Ok(())
}
