//! Waits for a store that is away at start: a database that starts later is no reason to give up.

use std::time::Duration;

use daemon::Shutdown;

use crate::output::CliError;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The result of `open`, which is called again as long as it fails because the store is away. `on_outage` is told why each
/// time; the log once. `None` if the shutdown begins first.
///
/// # Errors
/// If it fails for another reason, such as a wrong setting.
pub(crate) async fn until_open<T>(
    shutdown: &Shutdown,
    mut open: impl AsyncFnMut() -> Result<T, CliError>,
    mut on_outage: impl FnMut(String),
) -> Result<Option<T>, CliError> {
    let mut backoff = BACKOFF_MIN;
    let mut logged = String::new();
    loop {
        let opened = tokio::select! {
            opened = open() => opened,
            () = shutdown.begun() => return Ok(None),
        };
        let error = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if error.is_outage() => error.to_string(),
            Err(error) => return Err(error),
        };
        if logged != error {
            tracing::warn!("waiting for the store: {error}");
            logged.clone_from(&error);
        }
        on_outage(error);
        tokio::select! {
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            () = shutdown.begun() => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> CliError {
        store::StoreError::Timeout.into()
    }

    #[tokio::test]
    async fn store_that_is_away_is_waited_for_and_a_wrong_setting_is_not() {
        let shutdown = Shutdown::new();
        let (mut tries, mut told) = (0, 0);
        let open = async || {
            tries += 1;
            if tries < 3 { Err(away()) } else { Ok(tries) }
        };
        assert_eq!(until_open(&shutdown, open, |_| told += 1).await.unwrap(), Some(3));
        assert_eq!(told, 2);

        let wrong = async || Err::<(), _>(CliError::new("no such setting", "correct it"));
        let error = until_open(&shutdown, wrong, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("no such setting"), "{error}");

        let for_ever = until_open(&shutdown, async || Err::<(), _>(away()), |_| shutdown.begin());
        assert_eq!(for_ever.await.unwrap(), None);
    }
}
