//! Stories of hostile nodes, as many as the redundancy promises to bear. The same ones are told with bugs planted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use datamesh_core::ports::{Redundancy, Table};
use datamesh_core::sim::{Role, SimBuilder, SimMesh};
use datamesh_core::{Capability, Event, NodeState, Receipt, Result};
use futures::StreamExt;

use crate::parts::builder;
use crate::story::{must, tell};

const MINUTE: Duration = Duration::from_secs(60);

/// No read takes longer, whatever the hostile do.
const LONGEST_READ: Duration = Duration::from_secs(20);

/// Nor does a put.
const LONGEST_PUT: Duration = Duration::from_secs(60);

/// A mesh, and how many of its nodes are hostile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) hostile: usize,
    pub(crate) redundancy: Redundancy,
}

impl Size {
    /// Exactly a third of the nodes, and the code for that.
    pub(crate) fn byzantine(nodes: usize) -> Self {
        Self { nodes, hostile: nodes / 3, redundancy: Redundancy::byzantine(nodes).unwrap() }
    }

    /// Two of six nodes, which is what 4+2 bears.
    pub(crate) fn standard() -> Self {
        Self { nodes: 6, hostile: 2, redundancy: Redundancy::STANDARD }
    }

    pub(crate) fn mesh(self, seed: u64) -> SimBuilder {
        builder(seed).nodes(self.nodes).redundancy(self.redundancy).segment_bytes(4 << 10)
    }

    /// Which nodes are hostile with this seed.
    pub(crate) fn draw(self, seed: u64) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.nodes).collect();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        let mut drawn = Vec::new();
        for _ in 0..self.hostile {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            drawn.push(left.swap_remove((state >> 33) as usize % left.len()));
        }
        drawn.sort_unstable();
        drawn
    }
}

/// A mesh with some hostile nodes, and what was put into it.
pub(crate) struct Stage {
    pub(crate) sim: SimMesh,
    pub(crate) hostile: Vec<usize>,
    pub(crate) objects: Vec<(Capability, Vec<u8>)>,
    accused: Arc<Mutex<Vec<String>>>,
    pub(crate) slowest_read: Duration,
    pub(crate) slowest_put: Duration,
}

impl Stage {
    pub(crate) fn new(sim: SimMesh, hostile: Vec<usize>) -> Result<Self> {
        let accused = Arc::default();
        let stage = Self {
            sim,
            hostile,
            objects: Vec::new(),
            accused,
            slowest_read: Duration::ZERO,
            slowest_put: Duration::ZERO,
        };
        for node in stage.honest() {
            stage.listen(node)?;
        }
        Ok(stage)
    }

    pub(crate) fn honest(&self) -> Vec<usize> {
        (0..self.sim.len()).filter(|node| !self.hostile.contains(node)).collect()
    }

    /// Follows what an honest node says of others.
    fn listen(&self, node: usize) -> Result<()> {
        let mut events = self.sim.mesh(node)?.events();
        let (sim, hostile, accused) = (self.sim.clone(), self.hostile.clone(), Arc::clone(&self.accused));
        let follow = async move {
            while let Some(event) = events.next().await {
                let blamed = match &event {
                    Event::WrongShard { node, .. }
                    | Event::WrongManifest { node, .. }
                    | Event::WrongProof { node, .. }
                    | Event::Distrusted(node) => sim.number_of(node),
                    Event::CorruptShard(_) | Event::PoisonedExtent(_) => Some(node),
                    _ => None,
                };
                if blamed.is_some_and(|blamed| !hostile.contains(&blamed)) {
                    accused.lock().unwrap().push(format!("{event:?} on node {node}"));
                }
            }
        };
        drop(self.sim.on(node, follow));
        Ok(())
    }

    pub(crate) fn play(&self, role: impl Fn(usize) -> Role) {
        self.hostile.iter().enumerate().for_each(|(number, node)| self.sim.role(*node, Some(role(number))));
    }

    /// Puts objects of some lengths, each from another honest node.
    pub(crate) async fn put(&mut self, lengths: &[usize]) -> Result<Vec<Receipt>> {
        let honest = self.honest();
        let mut receipts = Vec::new();
        for len in lengths {
            let number = self.objects.len();
            let data: Vec<u8> = (0..*len).map(|at| (at / 7 + number) as u8).collect();
            let began = self.sim.now();
            let receipt = self.sim.mesh(honest[number % honest.len()])?.put(data.clone()).await?;
            self.slowest_put = self.slowest_put.max(self.sim.now() - began);
            self.objects.push((receipt.capability.clone(), data));
            receipts.push(receipt);
        }
        must(
            self.slowest_put <= LONGEST_PUT,
            format!("a put took {:?}, hostile {:?}", self.slowest_put, self.hostile),
        )?;
        Ok(receipts)
    }

    /// Reads everything, each object on so many honest nodes.
    pub(crate) async fn read(&mut self, readers: usize) -> Result<()> {
        let honest = self.honest();
        for (number, (capability, data)) in self.objects.iter().enumerate() {
            for reader in 0..readers.min(honest.len()) {
                let node = honest[(number + reader) % honest.len()];
                let began = self.sim.now();
                let read = self.sim.mesh(node)?.get(capability).await;
                self.slowest_read = self.slowest_read.max(self.sim.now() - began);
                let about = format!("object {number} on node {node}, hostile {:?}", self.hostile);
                match read {
                    Err(error) => must(false, format!("{about}: {error:?}"))?,
                    Ok(read) => must(read == *data, format!("{about}: wrong bytes"))?,
                }
            }
        }
        let slowest = self.slowest_read;
        must(slowest <= LONGEST_READ, format!("a read took {slowest:?}, hostile {:?}", self.hostile))
    }

    /// No honest node is blamed by another one.
    pub(crate) fn nobody_honest_is_blamed(&self) -> Result<()> {
        let accused = self.accused.lock().unwrap().clone();
        must(
            accused.is_empty(),
            format!("honest nodes were accused, hostile {:?}: {accused:?}", self.hostile),
        )?;
        for node in self.honest() {
            for status in self.sim.mesh(node)?.nodes() {
                let other = self.sim.number_of(&status.record.node).unwrap_or(usize::MAX);
                let bad = !status.trusted || status.audits.is_poor() || status.state == NodeState::Gone;
                must(
                    self.hostile.contains(&other) || !bad,
                    format!("node {node} thinks ill of node {other}, hostile {:?}: {status:?}", self.hostile),
                )?;
            }
        }
        Ok(())
    }

    /// Removes an object, and looks whether honest nodes have forgotten it.
    pub(crate) async fn remove_one(&mut self) -> Result<()> {
        let (capability, _) = self.objects.remove(0);
        let before = self.records();
        let honest = self.honest();
        self.sim.mesh(honest[0])?.remove(&capability).await?;
        let after = self.records();
        must(
            after.0 < before.0 && after.1 < before.1,
            format!("{before:?} records were {after:?} after a removal"),
        )
    }

    /// Manifests and extents on honest disks.
    fn records(&self) -> (usize, usize) {
        let count = |table| self.honest().into_iter().map(|node| self.sim.records(node, table)).sum();
        (count(Table::Manifests), count(Table::Extents))
    }
}

/// Objects are put before and after some nodes turn hostile, care does what it does for hours, and everything can be
/// read all the time; at last the hostile vanish, and the others have all of it.
pub(crate) fn bear(seed: u64, size: Size, role: impl Fn(usize) -> Role) -> Option<String> {
    tell(size.mesh(seed), |sim| async move {
        let mut stage = Stage::new(sim.clone(), size.draw(seed))?;
        stage.put(&[264_000, 1_000, 20_000]).await?;
        stage.play(role);
        stage.put(&[2_000, 40_000]).await?;
        stage.read(3).await?;
        sim.sleep(15 * MINUTE).await;
        stage.read(2).await?;
        stage.remove_one().await?;
        stage.put(&[30_000]).await?;
        sim.sleep(45 * MINUTE).await;
        stage.read(2).await?;
        stage.nobody_honest_is_blamed()?;
        stage.hostile.iter().for_each(|node| sim.crash(*node));
        stage.read(1).await?;
        let (read, put) = (stage.slowest_read, stage.slowest_put);
        if std::env::var("DATAMESH_VERBOSE").is_ok() {
            println!("  seed {seed}: the slowest read took {read:?}, the slowest put {put:?}");
        }
        stage.nobody_honest_is_blamed()
    })
}

/// A third of the nodes, or as many as are borne, withhold or alter one object and do everything else rightly.
pub(crate) fn collude(seed: u64, size: Size) -> Option<String> {
    tell(size.mesh(seed), |sim| async move {
        let mut stage = Stage::new(sim.clone(), size.draw(seed))?;
        let receipts = stage.put(&[50_000, 1_000, 50_000]).await?;
        for (aim, receipt) in receipts.iter().enumerate() {
            let spoils = |number: usize| (number + aim + seed as usize).is_multiple_of(2);
            let role = |number| if spoils(number) { Role::Spoil } else { Role::Withhold };
            stage.play(|number| role(number)(receipt.object));
            stage.read(size.nodes).await?;
            sim.sleep(15 * MINUTE).await;
            stage.read(1).await?;
        }
        stage.nobody_honest_is_blamed()
    })
}

/// Nodes that lie of what they hold lose their place: what they were to hold is with others, and nobody honest is
/// blamed.
pub(crate) fn found_out(seed: u64, role: Role, hours: u32) -> Option<String> {
    let size = Size { nodes: 9, hostile: 2, redundancy: Redundancy::STANDARD };
    tell(size.mesh(seed), |sim| async move {
        let mut stage = Stage::new(sim.clone(), size.draw(seed))?;
        stage.put(&[20_000; 12]).await?;
        stage.play(|_| role);
        stage.put(&[20_000; 4]).await?;
        sim.sleep(hours * 60 * MINUTE).await;
        stage.read(1).await?;
        stage.nobody_honest_is_blamed()?;
        let reader = stage.honest()[0];
        stage.hostile.iter().for_each(|node| sim.crash(*node));
        // Who drops what it is given has all the same what it had before.
        let before = if role == Role::AckAndDrop { 12 } else { 0 };
        let mut margins = Vec::new();
        for (capability, _) in stage.objects.iter().skip(before) {
            margins.push(sim.mesh(reader)?.health(capability).await?.margin.unwrap_or(0));
        }
        let short = margins.iter().filter(|margin| **margin < 2).count();
        must(
            short == 0,
            format!("after {hours} hours without the hostile {:?}: margins {margins:?}", stage.hostile),
        )
    })
}

/// A node that is to hold nothing of an object, or its own part, says to have all of it. Holders lose their disks one
/// after the other, and what they had is theirs again, or with others: at last the liar vanishes, and nothing is short.
pub(crate) fn claimed_losses(seed: u64, role: Role) -> Option<String> {
    let size = Size { nodes: 9, hostile: 1, redundancy: Redundancy::STANDARD };
    tell(size.mesh(seed), |sim| async move {
        let mut stage = Stage::new(sim.clone(), size.draw(seed))?;
        stage.put(&[20_000; 6]).await?;
        stage.play(|_| role);
        for node in stage.honest().into_iter().take(3) {
            sim.wipe(node);
            sim.restart(node).await?;
            sim.sleep(6 * 60 * MINUTE).await;
            stage.read(1).await?;
        }
        let reader = stage.honest()[0];
        stage.hostile.iter().for_each(|node| sim.crash(*node));
        for (capability, _) in &stage.objects {
            // What the liar was to hold itself is lost with it.
            let margin = sim.mesh(reader)?.health(capability).await?.margin;
            must(margin >= Some(1), format!("margin {margin:?} without the hostile {:?}", stage.hostile))?;
        }
        Ok(())
    })
}

/// Framers work for hours, and nothing comes of it: no shard is given up, nothing is repaired, nobody is blamed.
pub(crate) fn framers_achieve_nothing(seed: u64) -> Option<String> {
    let size = Size::byzantine(9);
    tell(size.mesh(seed), |sim| async move {
        let mut stage = Stage::new(sim.clone(), size.draw(seed))?;
        stage.put(&[20_000, 20_000, 1_000]).await?;
        let shards = |stage: &Stage| stage.honest().iter().map(|node| sim.shards(*node)).collect::<Vec<_>>();
        let before = shards(&stage);
        stage.play(|_| Role::Frame);
        for _ in 0..4 {
            sim.sleep(30 * MINUTE).await;
            let now = shards(&stage);
            must(now == before, format!("honest nodes had {before:?} shards and have {now:?}"))?;
        }
        for node in stage.honest() {
            let rebuilt = sim.mesh(node)?.metrics().shards_rebuilt;
            must(rebuilt == 0, format!("node {node} rebuilt {rebuilt} shards"))?;
        }
        stage.read(2).await?;
        stage.nobody_honest_is_blamed()
    })
}

/// Puts so many objects while some nodes acknowledge and drop, and counts those whose manifest can be had and whose
/// shards cannot.
pub(crate) fn unreadable(seed: u64, size: Size, objects: usize) -> (usize, usize) {
    let (found, lost) = (Arc::new(Mutex::new((0, 0))), size.draw(seed));
    let count = Arc::clone(&found);
    let told = tell(size.mesh(seed).segment_bytes(32 << 10), |sim| async move {
        let mut stage = Stage::new(sim.clone(), lost)?;
        (0..size.nodes).filter_map(|node| sim.mesh(node).ok()).for_each(|mesh| mesh.pause_care());
        stage.play(|_| Role::AckAndDrop);
        stage.put(&vec![17_000; objects]).await?;
        let mesh = sim.mesh(stage.honest()[0])?;
        for (capability, data) in &stage.objects {
            if mesh.stat(capability).await.is_err() {
                continue;
            }
            let read = mesh.get(capability).await;
            must(read.as_ref().map_or(true, |read| read == data), "other bytes were read")?;
            let mut count = count.lock().unwrap();
            *count = (count.0 + 1, count.1 + usize::from(read.is_err()));
        }
        Ok(())
    });
    assert_eq!(told, None);
    *found.lock().unwrap()
}
