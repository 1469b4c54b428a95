//! What a command that uses the store needs: opened once, here.

use serde::Serialize;
use store::{Store, TokenKey};

use crate::cli::up;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// The settings and the open store of an installation, for one command.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) data_dir: DataDir,
    pub(crate) store: Store,
    endpoint: String,
    json: bool,
}

impl Context {
    /// The proxy's `host:port`, as users reach it: what a running `memgate up` tells them, or what the settings say.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Reads the key of token hashes.
    ///
    /// # Errors
    /// If it can't be used, or isn't the installation's.
    pub(crate) async fn token_key(&self) -> Result<TokenKey, CliError> {
        self.data_dir.token_key(&self.store).await
    }

    /// Prints the command's result: `document` with `--json`, else `text`.
    ///
    /// # Errors
    /// If stdout can't be written.
    pub(crate) fn print<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        output::print(self.json, document, text)
    }
}

/// Opens the store of an existing installation and runs `command` with it.
///
/// # Errors
/// If the settings are invalid, there is no installation, or the command fails.
pub(crate) fn with_store(
    global: &GlobalArgs,
    command: impl AsyncFnOnce(&Context) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    let data_dir = DataDir::of(global);
    runtime()?.block_on(async {
        let store = data_dir.open_store(&settings).await?;
        // A lock that this user may not look at says nothing.
        let up = up::lock_holder(&data_dir).ok().flatten();
        let endpoint = up.and_then(|up| up.endpoint).unwrap_or_else(|| settings.webui.endpoint.clone());
        let context = Context { settings, data_dir, store, endpoint, json: global.json };
        let result = command(&context).await;
        context.data_dir.close_store(&context.settings, &context.store).await;
        result
    })
}
