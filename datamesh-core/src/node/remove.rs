//! Removing: what was staged in vain, and objects for whoever knows the removal secret.

use std::collections::{BTreeMap, BTreeSet};

use subtle::ConstantTimeEq;

use super::commit::shards_of;
use super::names::without_uses;
use super::{Node, id_key, use_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Layout, MAX_IDS_OF_MESSAGE, MAX_REMOVALS, Manifest, RemovalHash, RemovalSecret, Removed, Reply, Work,
};
use crate::id::{ExtentId, ID_LEN, NodeId, ObjectId, ShardId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, Table};

/// Names that are kept away with one sync, for which requests wait.
const FORBIDDEN_AT_ONCE: usize = 128;

/// What was said of names that are to stay away.
struct Forbidden {
    reply: Reply,
    /// Why no tombstone was kept, where the store is full.
    full: Option<Error>,
}

impl Node {
    /// Drops what this peer staged, nobody else did, and nothing uses.
    pub(super) async fn unstage(&self, from: NodeId, shards: Vec<ShardId>) -> Result<Reply> {
        check_count(shards.len())?;
        let _alone = self.gate.alone().await;
        let own: Vec<_> = {
            let mut staging = self.staging();
            shards.into_iter().filter(|shard| staging.withdraw(shard, from)).collect()
        };
        self.drop_staged(own).await?;
        Ok(Reply::Done)
    }

    /// Forgets staged shards and deletes those that no extent uses. The caller holds the gate alone.
    pub(super) async fn drop_staged(&self, shards: Vec<ShardId>) -> Result<()> {
        let mut batch = Batch::new();
        for shard in &shards {
            if !self.is_used(shard, None).await? {
                batch = batch.delete_blob(*shard);
            }
        }
        // Also where nothing is deleted: what stays, for an extent uses it, is durable then.
        if !shards.is_empty() {
            self.storage.commit(batch).await?;
        }
        let mut staging = self.staging();
        shards.iter().for_each(|shard| staging.remove(shard));
        Ok(())
    }

    /// Removes a manifest and leaves a tombstone, also where it is not: it may still be on its way.
    pub(super) async fn remove_object(&self, object: ObjectId, secret: &RemovalSecret) -> Result<Reply> {
        let _alone = self.gate.alone().await;
        let Some(record) = self.stored_manifest(object).await? else {
            let removed = Removed { id: *object.as_bytes(), secret: secret.clone() };
            return Ok(self.forbid(vec![removed]).await?.reply);
        };
        let manifest = Manifest::decode(&record.manifest)?;
        check_secret(secret, &manifest.public().removal)?;
        let batch = Batch::new().delete(Table::Manifests, id_key(object.as_bytes()));
        self.commit_removal(without_uses(batch, &object, &manifest), object.as_bytes(), secret).await?;
        Ok(Reply::Done)
    }

    /// Takes in what was removed while this node was away, or what it was told before: each is removed if it is here
    /// and the secret is right, and kept from coming.
    pub(super) async fn note_removals(&self, removals: Vec<Removed>) -> Result<Reply> {
        if removals.len() > MAX_REMOVALS {
            let text = format!("at most {MAX_REMOVALS} removals are told at a time, got {}", removals.len());
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        // What is noted is not here, and most of what a node is told it was told by others before.
        let mut left = Vec::new();
        for removed in removals {
            if !self.is_removed(&removed.id, &removed.secret.hash()).await? {
                left.push(removed);
            }
        }
        while !left.is_empty() {
            for removed in &left {
                self.carry_out(removed).await?;
            }
            left = self.forbid_all(left).await?;
        }
        Ok(Reply::Noted { store: self.store_name().await? })
    }

    /// Removes what is here. A secret that is not the right one changes nothing.
    async fn carry_out(&self, removed: &Removed) -> Result<()> {
        let (extent, object) = (ExtentId::from_bytes(removed.id), ObjectId::from_bytes(removed.id));
        let done = if self.stored_extent(extent).await?.is_some() {
            self.remove_extent(extent, &removed.secret).await.map(drop)
        } else if self.stored_manifest(object).await?.is_some() {
            self.remove_object(object, &removed.secret).await.map(drop)
        } else {
            Ok(())
        };
        match done {
            Err(error) if error.kind() == ErrorKind::AccessDenied => Ok(()),
            done => done,
        }
    }

    /// Leaves tombstones of all that is not here; gives back what came meanwhile and can be removed.
    async fn forbid_all(&self, removals: Vec<Removed>) -> Result<Vec<Removed>> {
        let mut by_name: BTreeMap<[u8; ID_LEN], Vec<Removed>> = BTreeMap::new();
        removals.into_iter().for_each(|removed| by_name.entry(removed.id).or_default().push(removed));
        let names: Vec<_> = by_name.into_iter().collect();
        let mut came = Vec::new();
        for page in names.chunks(FORBIDDEN_AT_ONCE) {
            came.extend(self.forbid_page(page).await?);
        }
        Ok(came)
    }

    /// The same of a page of names, each with all that was told of it, with one sync. Of several secrets the one that is
    /// right counts where something is here, and else the last.
    async fn forbid_page(&self, page: &[([u8; ID_LEN], Vec<Removed>)]) -> Result<Vec<Removed>> {
        let (mut came, mut absent) = (Vec::new(), Vec::new());
        let _alone = self.gate.alone().await;
        for (id, told) in page {
            match self.removal_of(id).await? {
                Some(here) => came.extend(told.iter().find(|removed| removed.secret.hash() == here).cloned()),
                None => absent.extend(told.last().cloned()),
            }
        }
        // Whoever tells it does so again when there is room.
        self.forbid(absent).await?.full.map_or(Ok(came), Err)
    }

    /// The removal hash of the extent or manifest with this name, if it is here.
    async fn removal_of(&self, id: &[u8; ID_LEN]) -> Result<Option<RemovalHash>> {
        if let Some(record) = self.stored_extent(ExtentId::from_bytes(*id)).await? {
            return Ok(Some(Layout::decode(&record.layout)?.removal));
        }
        match self.stored_manifest(ObjectId::from_bytes(*id)).await? {
            Some(record) => Ok(Some(Manifest::decode(&record.manifest)?.public().removal)),
            None => Ok(None),
        }
    }

    /// Removes extents, their uses and the shards that no other extent uses, and leaves tombstones, also of those
    /// that are not here: they may still be on their way.
    ///
    /// Nothing is removed unless the secret is right for every extent that is here. `Done` when any was
    /// removed; otherwise `Removed` when any had been removed before, and `Absent`.
    pub(super) async fn remove_extents(
        &self,
        extents: Vec<ExtentId>,
        secret: &RemovalSecret,
    ) -> Result<Reply> {
        check_count(extents.len())?;
        let mut left: BTreeSet<ExtentId> = extents.into_iter().collect();
        for extent in &left {
            if let Some(record) = self.stored_extent(*extent).await? {
                check_secret(secret, &Layout::decode(&record.layout)?.removal)?;
            }
        }
        let mut is_any_removed = false;
        loop {
            for extent in left.clone() {
                if self.remove_extent(extent, secret).await? {
                    left.remove(&extent);
                    is_any_removed = true;
                }
            }
            let _alone = self.gate.alone().await;
            if self.is_any_here(&left).await? {
                // It came since it was looked for.
                continue;
            }
            let left = left.iter().map(|extent| Removed { id: *extent.as_bytes(), secret: secret.clone() });
            let reply = self.forbid(left.collect()).await?.reply;
            return Ok(if is_any_removed { Reply::Done } else { reply });
        }
    }

    async fn is_any_here(&self, extents: &BTreeSet<ExtentId>) -> Result<bool> {
        for extent in extents {
            if self.stored_extent(*extent).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves tombstones of what is not here, each of another name. The caller holds the gate alone.
    ///
    /// Without them a manifest or layout that its holder was slow to take would come after its removal, and stay. A
    /// full store keeps none, and refuses what comes late as well.
    async fn forbid(&self, removals: Vec<Removed>) -> Result<Forbidden> {
        let (mut new, mut reply) = (Vec::new(), Reply::Absent);
        for removed in removals {
            match self.is_removed(&removed.id, &removed.secret.hash()).await? {
                true => reply = Reply::Removed,
                false => new.push(removed),
            }
        }
        if new.is_empty() {
            return Ok(Forbidden { reply, full: None });
        }
        match self.storage.commit(self.with_tombstones(Batch::new(), &new).await?).await {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                Ok(Forbidden { reply, full: Some(error) })
            }
            committed => committed.map(|()| Forbidden { reply, full: None }),
        }
    }

    /// Commits a removal with its tombstone. A full store first removes, which makes room, and then takes the tombstone
    /// if it can.
    async fn commit_removal(&self, batch: Batch, id: &[u8; ID_LEN], secret: &RemovalSecret) -> Result<()> {
        let removed = Removed { id: *id, secret: secret.clone() };
        let with_tombstone = self.with_tombstones(batch.clone(), std::slice::from_ref(&removed)).await?;
        match self.storage.commit(with_tombstone).await {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.storage.commit(batch).await?;
                self.forbid(vec![removed]).await.map(drop)
            }
            committed => committed,
        }
    }

    /// Removes one extent if it is here, with the gate taken for it alone so that others get their turn between.
    async fn remove_extent(&self, extent: ExtentId, secret: &RemovalSecret) -> Result<bool> {
        let _alone = self.gate.alone().await;
        // Another removal may have been faster.
        let Some(record) = self.stored_extent(extent).await? else { return Ok(false) };
        let layout = Layout::decode(&record.layout)?;
        check_secret(secret, &layout.removal)?;
        let mut batch = Batch::new()
            .delete(Table::Extents, id_key(extent.as_bytes()))
            .delete(Table::Work, Work::Unnamed(extent).key())
            .delete(Table::Work, Work::Mend(extent).key());
        for shard in shards_of(&layout, &record.indexes.into_iter().collect()) {
            batch = batch.delete(Table::ShardUses, use_key(&shard, &extent));
            if !self.staging().contains(&shard) && !self.is_shared(&shard, &extent).await? {
                batch = batch.delete_blob(shard);
            }
        }
        self.commit_removal(batch, extent.as_bytes(), secret).await?;
        Ok(true)
    }

    /// Whether another extent uses a shard of this one.
    async fn is_shared(&self, shard: &ShardId, extent: &ExtentId) -> Result<bool> {
        Ok(!is_active(Bug::DeleteSharedShard) && self.is_used(shard, Some(extent)).await?)
    }
}

/// Compares in constant time, so that answers teach nothing about the hash.
fn check_secret(secret: &RemovalSecret, expected: &RemovalHash) -> Result<()> {
    if bool::from(secret.hash().as_bytes().ct_eq(expected.as_bytes())) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AccessDenied, "the removal secret is not that of the object"))
}

fn check_count(count: usize) -> Result<()> {
    if count <= MAX_IDS_OF_MESSAGE {
        return Ok(());
    }
    let text = format!("at most {MAX_IDS_OF_MESSAGE} names are removed at a time, got {count}");
    Err(Error::new(ErrorKind::LimitExceeded, text))
}
