//! What is wanted of an instance, as the store has it or had it last.

use store::{Instance, Operation, StoreError};
use tokio::time::timeout;

use super::{Executor, STORE_TIMEOUT};
use crate::error::Error;

impl Executor {
    /// The instance, what was asked of it, and an error if the instance is the one that was read last: then nothing is known to
    /// be asked.
    pub(super) async fn read_wanted(
        &self,
        id: &str,
    ) -> Result<Option<(Instance, Vec<Operation>, Option<Error>)>, Error> {
        let Some((instance, store_error)) = self.read_instance(id).await? else { return Ok(None) };
        if store_error.is_some() {
            return Ok(Some((instance, vec![], store_error)));
        }
        let asked = self.store.open_operations_of(&instance.cache_id).await.unwrap_or_default();
        if asked.is_empty() {
            return Ok(Some((instance, asked, None)));
        }
        // Later than what was asked: a cache that was just resumed would look suspended, and so its operation void.
        let Some((instance, store_error)) = self.read_instance(id).await? else { return Ok(None) };
        let asked = if store_error.is_none() { asked } else { vec![] };
        Ok(Some((instance, asked, store_error)))
    }

    /// The instance, and an error if it is the one that was read last.
    async fn read_instance(&self, id: &str) -> Result<Option<(Instance, Option<Error>)>, Error> {
        let read = async {
            if self.known.is_store_away() {
                return Err(StoreError::Timeout);
            }
            timeout(STORE_TIMEOUT, self.store.instance(id)).await.unwrap_or(Err(StoreError::Timeout))
        };
        match read.await {
            Ok(instance) => {
                instance.iter().for_each(|instance| self.known.remember(instance));
                Ok(instance.map(|instance| (instance, None)))
            }
            Err(error @ StoreError::Corrupt(_)) => Err(error.into()),
            Err(error) => match self.known.get_alone(id) {
                Some(instance) => Ok(Some((instance, Some(error.into())))),
                None => Err(error.into()),
            },
        }
    }
}
