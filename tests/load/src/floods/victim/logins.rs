//! Logins at a steady rate: connect, log in, get one key, close.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::{Series, Victim, Window, kept_key};
use crate::client::Form;

pub(super) async fn measure(victim: &Arc<Victim>, window: Window) -> Series {
    let mut logins = JoinSet::new();
    let mut series = Series::new();
    for n in 0.. {
        let Some(due) = window.due(n, victim.logins_per_second) else { break };
        sleep_until(due).await;
        let form = if n % 2 == 0 { Form::Text } else { Form::Sasl };
        let victim = victim.clone();
        logins.spawn(async move {
            let result = log_in(&victim, form).await;
            (due.elapsed(), result)
        });
        while let Some(Ok((took, result))) = logins.try_join_next() {
            series.record(took, result);
        }
    }
    while let Some(Ok((took, result))) = logins.join_next().await {
        series.record(took, result);
    }
    series
}

async fn log_in(victim: &Victim, form: Form) -> Result<(), String> {
    let mut client = victim.log_in(form).await?;
    // A lost key counts where kept keys are counted.
    client.get(&kept_key(0)).await.map(drop).map_err(|failure| failure.to_string())
}
