//! What happened to the container of an instance, and what was done about it.

use serde::Serialize;
use store::{InstanceEvent, Store};

use crate::output::CliError;
use crate::output::table::{self, table};
use crate::output::time;

/// Events of one instance, newest first.
#[derive(Debug, Serialize)]
pub(super) struct Events {
    events: Vec<InstanceEvent>,
}

impl Events {
    pub(super) async fn read(store: &Store, instance_id: &str, limit: i64) -> Result<Self, CliError> {
        Ok(Self { events: store.instance_events(instance_id, limit).await? })
    }

    /// Every event with its details.
    pub(super) fn text(&self) -> String {
        if self.events.is_empty() {
            return "no repairs in the last 30 days\n".to_owned();
        }
        let rows: Vec<_> = self
            .events
            .iter()
            .map(|event| {
                [time::utc(event.last_at), event.count.to_string(), event.text(), event.detail.clone()]
            })
            .collect();
        table(["TIME", "TIMES", "EVENT", "DETAIL"], &rows)
    }

    /// A line for each event; none if there are no events.
    pub(super) fn lines(&self) -> String {
        let line = |event: &InstanceEvent| {
            let count = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
            ("event", format!("{}: {}{count}", time::past(event.last_at), event.text()))
        };
        table::pairs(&self.events.iter().map(line).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use store::{EventAction, EventCause, Timestamp};

    use super::*;

    // F-33.
    #[test]
    fn events_are_shown_with_time_cause_and_contents() {
        let event = InstanceEvent {
            cause: EventCause::OutOfMemory,
            action: EventAction::Started,
            contents_lost: true,
            detail: "exit code 137".into(),
            count: 2,
            first_at: Timestamp::EPOCH,
            last_at: Timestamp::from_millis(1_795_921_927_000),
        };
        let events = Events { events: vec![event] };
        let text = events.text();
        assert!(text.contains("2026-11-29 03:12 UTC") && text.contains("exit code 137"), "{text}");
        assert!(text.contains("no memory left: started again, its contents are lost"), "{text}");
        assert!(events.lines().contains("(2 times)"), "{}", events.lines());
        assert!(Events { events: vec![] }.lines().is_empty());
    }
}
