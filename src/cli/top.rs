//! `memgate top`: what caches, proxies and roles do now, in the terminal or once as text or JSON. It only reads.

mod keys;
mod roles;
mod sample;
mod screen;
mod terminal;
mod view;

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::keys::Key;
use self::sample::Sample;
use self::terminal::Terminal;
use self::view::{Sort, View};
use super::context::{self, Context};
use super::number;
use crate::global_args::GlobalArgs;
use crate::output::CliError;

const HELP: &str = "\
Examples:
  memgate top
  memgate top --sort p99
  memgate top --once --json | jq '.caches[] | select(.errors_per_second > 0)'

Rates, hit rate and p99 are those of the last seconds (--window). Proxies write what they have counted every 5 seconds, so a
shorter window jumps. CACHE is the user's address and the cache's name, MEMORY what items use of what they may.

Keys: q quits; r rate, h hit rate (worst first), l p99, e errors, m memory, c connections and n name choose what is sorted by.";

/// Show what caches, proxies and roles do now, refreshed until `q`
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Top {
    /// Measure for the window, print once and end. So does --json
    #[arg(long)]
    once: bool,
    /// What caches are sorted by
    #[arg(long, value_enum, default_value = "rate")]
    sort: Sort,
    /// Seconds between two refreshes
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = number::between(1, 60))]
    interval: i64,
    /// Seconds that rates are measured over
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = number::between(1, 300))]
    window: i64,
}

impl Top {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let is_once = self.once || global.json;
        let has_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if !(is_once || has_terminal) {
            return Err(CliError::usage("this is no terminal", "add --once to print once, or --json"));
        }
        context::with_store(global, async |context: &Context| {
            if is_once { self.print_once(context).await } else { self.show(context).await }
        })
    }

    fn window(&self) -> Duration {
        Duration::from_secs(self.window.unsigned_abs())
    }

    async fn print_once(&self, context: &Context) -> Result<(), CliError> {
        let first = Sample::take(context).await?;
        sleep(self.window()).await;
        let view = View::between(&first, &Sample::take(context).await?, self.sort);
        context.print(&view, || screen::text(&view, screen::WIDTH_MIN, usize::MAX))
    }

    async fn show(mut self, context: &Context) -> Result<(), CliError> {
        let failed =
            |error: std::io::Error| CliError::new(format!("can't use the terminal ({error})"), "add --once");
        let mut samples = VecDeque::from([Sample::take(context).await?]);
        let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let mut terminal = Terminal::open().map_err(failed)?;
        let mut keys = keys::read();
        let mut ticks = interval(Duration::from_secs(self.interval.unsigned_abs()));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut problem = None;
        loop {
            self.draw(&mut terminal, &samples, problem.as_deref()).map_err(failed)?;
            tokio::select! {
                _ = ticks.tick() => problem = self.add_sample(context, &mut samples).await,
                key = next_key(&mut keys) => match key {
                    Key::Quit => return Ok(()),
                    Key::Sort(sort) => self.sort = sort,
                },
                _ = resized.recv() => {}
                _ = ended.recv() => return Ok(()),
            }
        }
    }

    /// Adds a sample and drops those from before the window. Returns why there is none, if the store is away.
    async fn add_sample(&self, context: &Context, samples: &mut VecDeque<Sample>) -> Option<String> {
        match Sample::take(context).await {
            Ok(sample) => {
                let is_old = |old: &Sample| sample.at.duration_since(old.at) >= self.window();
                // The one before the window is what it is measured from.
                while samples.get(1).is_some_and(is_old) {
                    samples.pop_front();
                }
                samples.push_back(sample);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn draw(
        &self,
        terminal: &mut Terminal,
        samples: &VecDeque<Sample>,
        problem: Option<&str>,
    ) -> std::io::Result<()> {
        let (Some(first), Some(last)) = (samples.front(), samples.back()) else { return Ok(()) };
        let (width, height) = terminal::size();
        let view = View::between(first, last, self.sort);
        let lines = height.saturating_sub(1);
        let mut text = screen::text(&view, width, lines.saturating_sub(usize::from(problem.is_some())));
        if let Some(problem) = problem {
            text += &screen::cut(problem, width);
            text.push('\n');
        }
        text += &screen::cut(keys::FOOTER, width);
        terminal.draw(&text)
    }
}

/// The next key. Once stdin has ended, that is `q`.
async fn next_key(keys: &mut mpsc::Receiver<Key>) -> Key {
    keys.recv().await.unwrap_or(Key::Quit)
}
