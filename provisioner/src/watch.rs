//! What sets the reconciler going: changes in the store, and Docker's events.

use std::time::Duration;

use futures_util::StreamExt;
use store::{Instance, Store};
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use crate::Error;
use crate::engine::{Engine, Event};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Something to act on.
#[derive(Debug)]
pub(crate) enum News {
    /// An instance, its user or its route was written.
    Changed(Instance),
    /// The store answers (again): look at everything.
    StoreUp,
    StoreDown(Error),
    /// Docker answers (again): look at everything.
    EngineUp,
    EngineDown(Error),
    Touched(Event),
}

/// Follows the store until nobody listens.
pub(crate) async fn store(store: Store, news: Sender<News>) {
    let mut wait = FIRST_WAIT;
    while !news.is_closed() {
        let Err(error) = follow_store(&store, &news, &mut wait).await else { return };
        if news.send(News::StoreDown(error)).await.is_err() {
            return;
        }
        pause(&mut wait).await;
    }
}

async fn follow_store(store: &Store, news: &Sender<News>, wait: &mut Duration) -> Result<(), Error> {
    // A new feed starts at the revision of now: what was missed is found by the pass that StoreUp asks for.
    let mut feed = store.feed().await?;
    if news.send(News::StoreUp).await.is_err() {
        return Ok(());
    }
    *wait = FIRST_WAIT;
    loop {
        let changes = feed.next().await?;
        for user in changes.users {
            let Some(instance) = store.instance_of(&user).await? else { continue };
            if news.send(News::Changed(instance)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Follows Docker until nobody listens.
pub(crate) async fn engine(engine: &Engine, news: Sender<News>) {
    let mut wait = FIRST_WAIT;
    while !news.is_closed() {
        let Err(error) = follow_engine(engine, &news, &mut wait).await else { return };
        if news.send(News::EngineDown(error)).await.is_err() {
            return;
        }
        pause(&mut wait).await;
    }
}

async fn follow_engine(engine: &Engine, news: &Sender<News>, wait: &mut Duration) -> Result<(), Error> {
    let mut events = std::pin::pin!(engine.events()?);
    engine.ping().await?;
    *wait = FIRST_WAIT;
    if news.send(News::EngineUp).await.is_err() {
        return Ok(());
    }
    while let Some(event) = events.next().await {
        if news.send(News::Touched(event?)).await.is_err() {
            return Ok(());
        }
    }
    Err(Error::EngineDown("it has closed its stream of events".into()))
}

async fn pause(wait: &mut Duration) {
    sleep(*wait).await;
    *wait = wait.saturating_mul(2).min(LONGEST_WAIT);
}
