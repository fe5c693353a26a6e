//! Writers that keep to the protocol and not to its spirit: what they put must harm nobody else.

use std::fmt;
use std::sync::{Arc, Mutex};

use datamesh_core::format::{OwnerSecret, Salt};
use datamesh_core::ports::{CodeId, CryptoSuite, ErasureCode, Nonce, Redundancy, Signature, SuiteId};
use datamesh_core::sim::{Parts, SimBuilder};
use datamesh_core::{NodeId, Result};
use datamesh_crypto::ChaChaSuite;
use datamesh_store::ReedSolomon;

use crate::parts::parts;

/// Long enough for an extent.
const LENGTH: usize = 20_000;

/// Two objects whose parity shards are the same bytes: removing one must leave the other whole.
pub(crate) fn shards_of_two_objects(seed: u64) -> Option<String> {
    let same = |_: &[u8], shard: &mut [u8]| shard.fill(7);
    let parts = Parts { code: Arc::new(Forged(same)), ..parts() };
    let sim = SimBuilder::new(seed, parts).nodes(6).open().unwrap();
    let health = sim.run(async {
        let mesh = sim.mesh(0)?;
        let removed = mesh.put(vec![1; LENGTH]).await?.capability;
        let kept = mesh.put(vec![2; LENGTH]).await?.capability;
        mesh.remove(&removed).await?;
        mesh.health(&kept).await
    });
    let health = health.unwrap().unwrap();
    (!health.is_full()).then(|| "i8_promised_shards_are_there".into())
}

/// One object that is another one where it is read from its parity: a reader may fail, and never see the other.
pub(crate) fn two_objects_in_one(seed: u64) -> Option<String> {
    let twins = Arc::new(Twins::default());
    let forger = Arc::clone(&twins);
    let code = Forged(move |data: &[u8], shard: &mut [u8]| forger.forge(data, shard));
    let parts = Parts { code: Arc::new(code), suite: twins, ..parts() };
    let redundancy = Redundancy::new(1, 2).unwrap();
    let sim = SimBuilder::new(seed, parts).nodes(3).redundancy(redundancy).open().unwrap();
    let readings = sim.run(async {
        let data = vec![1; LENGTH];
        let object = sim.mesh(0)?.put(data.clone()).await?.capability;
        let mut wrong = 0;
        for node in 0..3 {
            sim.crash(node);
            let read = sim.mesh((node + 1) % 3)?.get(&object).await;
            wrong += usize::from(read.is_ok_and(|read| read != data));
            sim.restart(node).await?;
        }
        Ok::<_, datamesh_core::Error>(wrong)
    });
    (readings.unwrap().unwrap() > 0).then(|| "i2_no_wrong_bytes".into())
}

/// A segment that was sealed with others to follow must not open as the last.
pub(crate) fn an_end_too_soon(seed: u64) -> Option<String> {
    let keys = OwnerSecret::from_bytes([seed as u8; 32]).read_key().object_keys();
    let salt = Salt::from_bytes([7; 32]);
    let mut segment = vec![1; LENGTH];
    let tag = keys.seal_segment(&ChaChaSuite, &salt, 0, false, &mut segment).unwrap();
    let opened = keys.open_segment(&ChaChaSuite, &salt, 0, true, &mut segment, &tag);
    opened.is_ok().then(|| "i2_no_wrong_bytes".into())
}

/// A code whose parity shards are what a function makes of the first data shard. It restores no more than one data
/// shard, by taking any other for it.
struct Forged<F>(F);

impl<F> fmt::Debug for Forged<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forged")
    }
}

impl<F: Fn(&[u8], &mut [u8]) + Send + Sync + 'static> ErasureCode for Forged<F> {
    fn id(&self) -> CodeId {
        ReedSolomon::new().id()
    }

    fn alignment(&self) -> usize {
        ReedSolomon::new().alignment()
    }

    fn supports(&self, redundancy: Redundancy) -> bool {
        ReedSolomon::new().supports(redundancy)
    }

    fn encode(&self, _: Redundancy, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<()> {
        let first = data.first().unwrap();
        parity.iter_mut().for_each(|shard| (self.0)(first, shard));
        Ok(())
    }

    fn reconstruct(&self, _: Redundancy, shards: &[Option<&[u8]>], restored: &mut [&mut [u8]]) -> Result<()> {
        let present = shards.iter().flatten().next().unwrap();
        restored.iter_mut().for_each(|shard| shard.copy_from_slice(present));
        Ok(())
    }
}

/// Seals two texts at a time with the same key, and gives the second out as the parity of the first.
#[derive(Debug, Default)]
struct Twins {
    suite: ChaChaSuite,
    sealed: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl CryptoSuite for Twins {
    fn id(&self) -> SuiteId {
        self.suite.id()
    }

    fn seal(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; 16]> {
        let mut twin = buffer.to_vec();
        twin.fill(2);
        let tag = self.suite.seal(key, nonce, associated_data, &mut twin)?;
        twin.extend_from_slice(&tag);
        let tag = self.suite.seal(key, nonce, associated_data, buffer)?;
        self.sealed.lock().unwrap().push((buffer.to_vec(), twin));
        Ok(tag)
    }

    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()> {
        self.suite.open(key, nonce, associated_data, buffer, tag)
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        self.suite.verify(node, message, signature)
    }
}

impl Twins {
    fn forge(&self, data: &[u8], shard: &mut [u8]) {
        shard.copy_from_slice(data);
        let sealed = self.sealed.lock().unwrap();
        if let Some((_, twin)) = sealed.iter().find(|(first, _)| data.starts_with(first)) {
            shard.get_mut(..twin.len()).unwrap().copy_from_slice(twin);
        }
    }
}
