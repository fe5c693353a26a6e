//! Looking whether the disk gives anything, once it has failed to give a shard.

use std::sync::Arc;
use std::time::Duration;

use crate::care::Care;

/// How long after a look another follows.
const LOOK_EVERY: Duration = Duration::from_secs(15);

impl Care {
    /// Looks for ever: when a shard could not be read, at others, until one is.
    pub(crate) async fn look_at_disk(self: Arc<Self>) {
        loop {
            self.node.is_doubted().await;
            let mut is_told = false;
            loop {
                match self.node.look_anew().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => tracing::warn!(%error, "the disk could not be looked at"),
                }
                if self.node.is_blind() && !std::mem::replace(&mut is_told, true) {
                    tracing::error!("the disk gives no shard any more; others take over until it does");
                }
                self.engine.runtime.sleep(LOOK_EVERY).await;
            }
        }
    }
}
