//! Which extents a manifest names: an extent lives because one does.

use bytes::Bytes;

use super::commit::shards_of;
use super::{Node, id_key, use_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Extents, FORMAT_VERSION, Layout, MAX_REMOVALS, Manifest, Reply, StoredManifest, UnnamedFor, Work,
};
use crate::id::{ExtentId, ID_LEN, ObjectId};
use crate::ports::{Batch, Table};

/// Manifests that are entered at a time.
const MANIFESTS_AT_ONCE: usize = 16;

/// Manifests that name one extent, which are looked at; hardly ever is there more than one.
const MAX_USES: usize = 64;

/// The extents that a manifest names.
fn extents_of(manifest: &Manifest) -> Vec<ExtentId> {
    match &manifest.public().extents {
        Extents::Inline => Vec::new(),
        Extents::Single(layout) => vec![ExtentId::of(&layout.encode())],
        Extents::Many(extents) => extents.clone(),
    }
}

fn extent_use(extent: &ExtentId, object: &ObjectId) -> Bytes {
    [*extent.as_bytes(), *object.as_bytes()].concat().into()
}

/// Adds that the manifest names its extents.
pub(super) fn with_uses(batch: Batch, object: &ObjectId, manifest: &Manifest) -> Batch {
    extents_of(manifest).iter().fold(batch, |batch, extent| {
        batch.put(Table::ExtentUses, extent_use(extent, object), Bytes::from_static(&[FORMAT_VERSION]))
    })
}

/// Adds that the manifest names them no more.
pub(super) fn without_uses(batch: Batch, object: &ObjectId, manifest: &Manifest) -> Batch {
    extents_of(manifest)
        .iter()
        .fold(batch, |batch, extent| batch.delete(Table::ExtentUses, extent_use(extent, object)))
}

impl Node {
    /// Enters the manifests that an earlier release kept, once. Until then this node cannot say what they name.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn index_manifests(&self) -> Result<()> {
        if self.is_indexed().await? {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page =
                self.storage.scan_records(Table::Manifests, Bytes::new(), after, MANIFESTS_AT_ONCE).await?;
            let _alone = self.gate.alone().await;
            for (key, _) in &page.records {
                let Some(object) = id_of(key).map(ObjectId::from_bytes) else { continue };
                // It may have been removed since the page was read.
                if let Some(StoredManifest { manifest, .. }) = self.stored_manifest(object).await? {
                    let batch = with_uses(Batch::new(), &object, &Manifest::decode(&manifest)?);
                    self.storage.commit(batch).await?;
                }
            }
            after = page.records.last().map(|(key, _)| key.clone()).filter(|_| page.more);
            if after.is_none() {
                let done = Bytes::from_static(&[FORMAT_VERSION]);
                return self.storage.commit(Batch::new().put(Table::Work, Work::Indexed.key(), done)).await;
            }
        }
    }

    async fn is_indexed(&self) -> Result<bool> {
        Ok(self.storage.read_record(Table::Work, Work::Indexed.key()).await?.is_some())
    }

    /// Whether a manifest that is here names each of these extents.
    pub(super) async fn named(&self, extents: Vec<ExtentId>) -> Result<Reply> {
        if extents.len() > MAX_REMOVALS {
            let text = format!("at most {MAX_REMOVALS} extents are asked about, got {}", extents.len());
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        if !self.is_indexed().await? {
            return Err(Error::new(ErrorKind::Busy, "the manifests are still being looked through"));
        }
        let mut named = Vec::with_capacity(extents.len());
        for extent in extents {
            named.push(self.is_named(&extent).await?);
        }
        Ok(Reply::Named { named })
    }

    async fn is_named(&self, extent: &ExtentId) -> Result<bool> {
        let prefix = id_key(extent.as_bytes());
        let page = self.storage.scan_records(Table::ExtentUses, prefix, None, MAX_USES).await?;
        for (key, _) in page.records {
            let object = key.get(ID_LEN..).and_then(id_of).map(|id| id_key(&id));
            let Some(object) = object else { continue };
            if self.storage.read_record(Table::Manifests, object).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The extents that came after this one of which no manifest is known, and for how many hours.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn unnamed(
        &self,
        after: Option<ExtentId>,
        limit: usize,
    ) -> Result<Vec<(ExtentId, UnnamedFor)>> {
        let after = after.map(|extent| Work::Unnamed(extent).key());
        let page = self.storage.scan_records(Table::Work, Work::EVERY_UNNAMED, after, limit).await?;
        let read = |(key, value): &(Bytes, Bytes)| match Work::from_key(key) {
            Some(Work::Unnamed(extent)) => Some((extent, UnnamedFor::decode(value).unwrap_or_default())),
            _ => None,
        };
        Ok(page.records.iter().filter_map(read).collect())
    }

    /// Notes the ages of extents that are still without a name, and that the others have one.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn note_names(&self, ages: &[(ExtentId, Option<UnnamedFor>)]) -> Result<()> {
        let batch = ages.iter().fold(Batch::new(), |batch, (extent, age)| match age {
            Some(age) => batch.put(Table::Work, Work::Unnamed(*extent).key(), age.encode()),
            None => batch.delete(Table::Work, Work::Unnamed(*extent).key()),
        });
        self.storage.commit(batch).await
    }

    /// Gives up an extent that no manifest names; says whether it was here. It leaves no tombstone: nobody removed it.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn collect_extent(&self, extent: ExtentId) -> Result<bool> {
        let _alone = self.gate.alone().await;
        let mut batch = Batch::new()
            .delete(Table::Work, Work::Unnamed(extent).key())
            .delete(Table::Work, Work::Mend(extent).key());
        let Some(record) = self.stored_extent(extent).await? else {
            return self.storage.commit(batch).await.map(|()| false);
        };
        batch = batch.delete(Table::Extents, id_key(extent.as_bytes()));
        let layout = Layout::decode(&record.layout)?;
        for shard in shards_of(&layout, &record.indexes.into_iter().collect()) {
            batch = batch.delete(Table::ShardUses, use_key(&shard, &extent));
            if !self.staging().contains(&shard) && !self.is_used(&shard, Some(&extent)).await? {
                batch = batch.delete_blob(shard);
            }
        }
        self.storage.commit(batch).await.map(|()| true)
    }
}

fn id_of(key: &[u8]) -> Option<[u8; ID_LEN]> {
    key.try_into().ok()
}
