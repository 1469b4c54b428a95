//! `memgate usage`: what caches used, hour by hour.

mod hour;

use identity::usage_csv::Audience;
use serde::Serialize;
use store::{Store, Timestamp, UsageHour, UsageSpan, now};

use super::context::{self, Context};
use super::lookup::{CacheArg, find_user};
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};

/// Export what caches used
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UsageCommand {
    /// Print a row for each hour in which a cache had memory or connections: memory, operations, bytes, connections
    #[command(after_help = "\
Examples:
  memgate usage export --from 2026-11-01 --to 2026-12-01 > november.csv
  memgate usage export ada@example.org --cache shop --from 2026-11-29T08
  memgate usage export --format json > usage.json

All times are in UTC. The hour that --to names isn't exported, and the current hour still grows. Deleted users and caches are
exported too; their names are gone, their ids are not. Hours are kept for 400 days at least, or as provisioner.usage_days says.
docs/operating.md explains each column.")]
    Export(Export),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Only this user's caches: an e-mail address, or the id of a deleted user
    #[arg(value_name = "EMAIL")]
    user: Option<String>,
    #[command(flatten)]
    cache: CacheArg,
    /// The first hour: 2026-11-29, or 2026-11-29T08 for a part of a day [default: all]
    #[arg(long, value_name = "HOUR", value_parser = hour::parse)]
    from: Option<Timestamp>,
    /// The first hour that isn't exported any more, in the same form [default: until now]
    #[arg(long, value_name = "HOUR", value_parser = hour::parse)]
    to: Option<Timestamp>,
    /// How rows are written; --json is the same as --format json
    #[arg(long, value_enum, default_value = "csv")]
    format: ExportFormat,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExportFormat {
    /// Comma-separated values (RFC 4180) under a line of column names
    Csv,
    /// One JSON document
    Json,
}

/// Writes rows as they come: there may be millions.
struct Writer {
    format: ExportFormat,
    rows: usize,
}

impl UsageCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Export(export) = self;
        let format = if global.json { ExportFormat::Json } else { export.format };
        context::with_store(global, async |context: &Context| export.run(&context.store, format).await)
    }
}

impl Export {
    async fn run(&self, store: &Store, format: ExportFormat) -> Result<(), CliError> {
        let span = UsageSpan {
            from: self.from.unwrap_or(Timestamp::EPOCH),
            to: self.to.unwrap_or_else(|| now().saturating_add(std::time::Duration::from_hours(1))),
        };
        if span.from >= span.to {
            return Err(CliError::usage("--from isn't before --to", "name an earlier hour with --from"));
        }
        let instances = self.instances(store).await?;
        let mut writer = Writer { format, rows: 0 };
        writer.begin()?;
        match instances {
            None => writer.write_all(store, span, None).await?,
            Some(instances) => {
                for instance in instances {
                    writer.write_all(store, span, Some(&instance)).await?;
                }
            }
        }
        writer.end()
    }

    /// The instances that the arguments name; `None` for all.
    async fn instances(&self, store: &Store) -> Result<Option<Vec<String>>, CliError> {
        let Some(name) = &self.user else {
            if self.cache.is_named() {
                let fix = "write `memgate usage export EMAIL --cache NAME`";
                return Err(CliError::usage("--cache needs the user whose cache it is", fix));
            }
            return Ok(None);
        };
        if self.cache.is_named() {
            let user = find_user(store, name).await?;
            let cache = self.cache.find(store, &user).await?;
            let instance = store.instance_of_cache(&cache.id).await?;
            return Ok(Some(instance.into_iter().map(|instance| instance.id).collect()));
        }
        let instances = match store.user_by_email(name).await? {
            Some(user) => store.instance_ids_of_user(&user.id).await?,
            None => store.instance_ids_of_user(name).await?,
        };
        if instances.is_empty() {
            // With the same error as other commands, unless the user has never had a cache.
            find_user(store, name).await?;
        }
        Ok(Some(instances))
    }
}

impl Writer {
    fn begin(&self) -> Result<(), CliError> {
        match self.format {
            ExportFormat::Csv => output::write_out(&Audience::Operators.header()),
            ExportFormat::Json => output::write_out("{\"hours\":["),
        }
    }

    async fn write_all(
        &mut self,
        store: &Store,
        span: UsageSpan,
        instance: Option<&str>,
    ) -> Result<(), CliError> {
        let mut last: Option<UsageHour> = None;
        loop {
            let page = store.usage_hours(span, instance, last.as_ref()).await?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            let mut text = String::new();
            for row in &page {
                match self.format {
                    ExportFormat::Csv => text.push_str(&Audience::Operators.row(row)),
                    ExportFormat::Json => {
                        text.push_str(if self.rows == 0 { "" } else { ",\n" });
                        text.push_str(&json(row)?);
                    }
                }
                self.rows += 1;
            }
            output::write_out(&text)?;
        }
    }

    fn end(&self) -> Result<(), CliError> {
        match self.format {
            ExportFormat::Csv => Ok(()),
            ExportFormat::Json => output::write_out("]}"),
        }
    }
}

fn json<T: Serialize>(row: &T) -> Result<String, CliError> {
    let line = serde_json::to_string(row)
        .map_err(|error| CliError::new(format!("can't print a row ({error})"), "report this bug"))?;
    Ok(output::escape_controls(&line).into_owned())
}
