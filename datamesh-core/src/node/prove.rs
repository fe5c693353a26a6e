//! Proving that a shard is held, and remembering who failed to.

use bytes::Bytes;

use super::{Answer, Node};
use crate::error::{ErrorKind, Result};
use crate::format::{FORMAT_VERSION, ProofNonce, Reply, Work, prove};
use crate::id::{NodeId, ShardId};
use crate::placement::MAX_MEMBERS;
use crate::ports::{Batch, Table};

impl Node {
    /// The chunk of a shard that the nonce picks, with what joins it to the shard's name.
    pub(super) async fn prove(&self, shard: ShardId, nonce: ProofNonce) -> Result<Answer> {
        let content = match self.read_blob(shard).await {
            Ok(Some(content)) => content,
            Ok(None) => return Ok((Reply::Absent, Bytes::new())),
            // The scrub is told; what has rotted is not held any more.
            Err(error) => {
                self.tell_unread(shard, &error).await?;
                let is_rotten = error.kind() == ErrorKind::Corrupt;
                return if is_rotten { Ok((Reply::Absent, Bytes::new())) } else { Err(error) };
            }
        };
        let proof = self.runtime.compute(move || prove(&shard, &nonce, &content)).await?;
        Ok((Reply::Done, proof.into()))
    }

    /// The nodes that are not trusted, for their proofs were wrong.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn distrusted(&self) -> Result<Vec<NodeId>> {
        let page = self.storage.scan_records(Table::Work, Work::EVERY_DISTRUSTED, None, MAX_MEMBERS).await?;
        let node = |key: &Bytes| match Work::from_key(key) {
            Some(Work::Distrusted(node)) => Some(node),
            _ => None,
        };
        Ok(page.records.iter().filter_map(|(key, _)| node(key)).collect())
    }

    /// Keeps that a node is not trusted, or is again.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn keep_distrust(&self, node: NodeId, is_distrusted: bool) -> Result<()> {
        let key = Work::Distrusted(node).key();
        let batch = match is_distrusted {
            true => Batch::new().put(Table::Work, key, Bytes::from_static(&[FORMAT_VERSION])),
            false => Batch::new().delete(Table::Work, key),
        };
        self.storage.commit(batch).await
    }
}
