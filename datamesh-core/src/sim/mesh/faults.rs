//! What can go wrong with a simulated node, its disk, its clock and its links, and what makes it well again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::ports::Table;
use crate::sim::draws::Draws;
use crate::sim::link::Link;
use crate::sim::medium::Medium;
use crate::sim::mesh::SimMesh;
use crate::sim::network::Net;
use crate::sim::roles::{Actor, Role, Target};
use crate::sim::world::lock;

impl SimMesh {
    /// Kills a node and takes all that its disk had.
    pub fn wipe(&self, node: usize) {
        self.crash(node);
        self.damage(node, "wipe", |medium, _| medium.wipe());
    }

    fn damage(&self, node: usize, kind: &'static str, damage: impl FnOnce(&mut Medium, &mut Draws)) {
        self.world().note(node, kind, [0, 0], &[]);
        if let Ok(medium) = self.medium(node) {
            damage(&mut lock(&medium), &mut lock(&self.0.draws));
        }
    }

    /// Turns a bit in each of so many shards on a node's disk, as decay does.
    pub fn flip_bits(&self, node: usize, shards: usize) {
        self.damage(node, "flip", |medium, draws| medium.flip_bits(shards, draws));
    }

    /// Makes the disk fail to give each of so many shards, as one does that has lost a sector.
    pub fn lose_sectors(&self, node: usize, shards: usize) {
        self.damage(node, "lose sectors", |medium, draws| medium.lose_sectors(shards, draws));
    }

    /// Makes a node's disk give no shard any more while it keeps its records, or give all again.
    pub fn blind_disk(&self, node: usize, is_blind: bool) {
        self.damage(node, "blind disk", |medium, _| medium.blind = is_blind);
    }

    /// Takes from a node's disk the shards of one segment of each extent that it has, as if they had been set aside; says
    /// how many there were.
    pub fn lose_segment(&self, node: usize, segment: usize) -> usize {
        let mut lost = 0;
        self.damage(node, "lose segment", |medium, _| lost = medium.lose_segment(segment));
        lost
    }

    /// Makes a node hostile: it loses so many shards, says that it has them, and answers with the bytes of others.
    pub fn forge(&self, node: usize, shards: usize) {
        self.damage(node, "forge", |medium, draws| medium.forge(shards, draws));
    }

    /// How many shards are on a node's disk.
    pub fn shards(&self, node: usize) -> usize {
        self.medium(node).map_or(0, |medium| lock(&medium).blobs_after(None).count())
    }

    /// How many shards wait for their commit on a node; none where it does not run.
    pub fn staged(&self, node: usize) -> usize {
        self.mesh(node).map_or(0, |mesh| mesh.staged().0)
    }

    /// How many shards on a node's disk are not what their names say, or cannot be read.
    pub fn rotten_shards(&self, node: usize) -> usize {
        self.medium(node).map_or(0, |medium| lock(&medium).rotten())
    }

    /// How many records of a table are on a node's disk.
    pub fn records(&self, node: usize, table: Table) -> usize {
        self.medium(node).map_or(0, |medium| lock(&medium).table(table).count())
    }

    /// Puts one shard on a node's disk where another should be, as a misdirected write does.
    pub fn misdirect(&self, node: usize) {
        self.damage(node, "misdirect", |medium, draws| medium.misdirect(draws));
    }

    /// Makes the next write to a node's disk fail; the node then refuses more until it is restarted.
    pub fn fail_disk(&self, node: usize) {
        self.damage(node, "fail disk", |medium, _| medium.failing = true);
    }

    /// Sets how many bytes a node's disk takes in all: what it has already makes it full.
    pub fn set_disk_capacity(&self, node: usize, bytes: u64) {
        self.damage(node, "capacity", |medium, _| medium.capacity = bytes);
    }

    /// Makes a node's disk so many times as slow as it was at first; 1 makes it well again.
    pub fn slow_disk(&self, node: usize, times: u32) {
        self.damage(node, "slow disk", |medium, _| medium.slowness = times.max(1));
    }

    /// Stops a node in the middle of whatever it does, as a long pause of its machine.
    pub fn freeze(&self, node: usize) {
        self.set_frozen(node, true);
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, node: usize) {
        self.set_frozen(node, false);
    }

    fn set_frozen(&self, node: usize, frozen: bool) {
        let scope = self.with(node, |slot| slot.life.as_ref().map(|life| life.scope));
        if let Ok(Some(scope)) = scope {
            self.world().note(node, "frozen", [frozen.into(), 0], &[]);
            self.world().set_frozen(scope, frozen);
        }
    }

    /// Cuts every link from one group to the other, in one direction.
    pub fn cut(&self, from: &[usize], to: &[usize]) {
        self.each_way(from, to, |net, way| net.set_cut(way, true));
    }

    /// Cuts every link between two groups, in both directions.
    pub fn partition(&self, one: &[usize], other: &[usize]) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Makes every link from one group to the other whole, in one direction.
    pub fn mend(&self, from: &[usize], to: &[usize]) {
        self.each_way(from, to, |net, way| {
            net.set_cut(way, false);
            net.set_clogged(way, false);
        });
    }

    /// Makes every link from one group to the other hold all packets until it is mended; nothing is lost.
    pub fn clog(&self, from: &[usize], to: &[usize]) {
        self.each_way(from, to, |net, way| net.set_clogged(way, true));
    }

    /// Breaks the connections between two groups now; they are dialled anew at once.
    pub fn reset(&self, one: &[usize], other: &[usize]) {
        self.each_way(one, other, |net, (a, b)| net.break_connection(a, b, None));
    }

    /// Loses all that the transport of a node tells from now on, as where more events wait than there is room for;
    /// `false` ends that.
    pub fn mute(&self, node: usize, is_mute: bool) {
        self.world().note(node, "mute", [is_mute.into(), 0], &[]);
        self.0.net.network.set_mute(node, is_mute);
    }

    /// Changes how links from one group to the other carry, in one direction; `None` makes them as they were.
    pub fn set_link(&self, from: &[usize], to: &[usize], link: Option<Link>) {
        self.each_way(from, to, |net, way| net.network.set_link(way, link));
    }

    /// Makes every link whole and as it was at first.
    pub fn heal(&self) {
        self.world().note(0, "heal", [0, 0], &[]);
        self.0.net.heal();
    }

    fn each_way(&self, from: &[usize], to: &[usize], change: impl Fn(&Net, (usize, usize))) {
        for a in from {
            for b in to.iter().filter(|b| *b != a) {
                self.world().note(*a, "link", [*b as u64, 0], &[]);
                change(&self.0.net, (*a, *b));
            }
        }
    }

    /// Makes a node hostile: from now on it plays this role, also after a crash; `None` makes it honest again.
    ///
    /// The role changes what the node hears, answers and asks on the network; the engine behind it is the one that
    /// ships. A node that is to withhold or spoil one object must be told so after that was put.
    ///
    /// ```
    /// use datamesh_core::Result;
    /// use datamesh_core::sim::{Role, SimMesh};
    ///
    /// /// Reads what was put while two of six nodes give out altered bytes.
    /// async fn two_liars(sim: SimMesh) -> Result<()> {
    ///     let capability = sim.mesh(0)?.put(vec![7; 100_000]).await?.capability;
    ///     sim.role(4, Some(Role::BitFlip));
    ///     sim.role(5, Some(Role::BitFlip));
    ///     assert_eq!(sim.mesh(1)?.get(&capability).await?, vec![7; 100_000]);
    ///     Ok(())
    /// }
    /// ```
    pub fn role(&self, node: usize, role: Option<Role>) {
        let name = role.map_or("honest", Role::name);
        self.world().note(node, name, [0, 0], &[]);
        let actor = role.and_then(|role| {
            let target = match role {
                Role::Withhold(object) | Role::Spoil(object) => Target::find(object, &self.media()),
                _ => Target::default(),
            };
            let draws = Draws::new(lock(&self.0.draws).next_u64(), "role");
            Some(Actor::new(role, self.medium(node).ok()?, target, draws))
        });
        self.network().set_actor(node, actor);
    }

    fn media(&self) -> Vec<Arc<Mutex<Medium>>> {
        self.nodes().iter().map(|slot| Arc::clone(&slot.medium)).collect()
    }

    /// Sets a node's wall clock forward by so many milliseconds, or back.
    pub fn clock_jump(&self, node: usize, milliseconds: i64) {
        self.world().note(node, "clock jump", [milliseconds.unsigned_abs(), 0], &[]);
        let clock = self.with(node, |slot| Arc::clone(&slot.clock));
        if let Ok(clock) = clock {
            let now = clock.offset_ms.load(Ordering::Relaxed);
            clock.offset_ms.store(now.saturating_add(milliseconds), Ordering::Relaxed);
        }
    }

    /// Lets a node's clocks go too fast by so many parts in a million, or too slow. Set it before the node is up, for
    /// its time must not go backwards.
    pub fn clock_drift(&self, node: usize, parts_per_million: i64) {
        let clock = self.with(node, |slot| Arc::clone(&slot.clock));
        if let Ok(clock) = clock {
            clock.drift_ppm.store(parts_per_million, Ordering::Relaxed);
        }
    }

    /// Sets the zone that a node will declare when it is opened next.
    pub fn rezone(&self, node: usize, zone: &str) {
        if let Ok(zone) = zone.parse() {
            drop(self.with(node, |slot| slot.zone = zone));
        }
    }

    /// Sets the capacity that a node will offer when it is opened next.
    pub fn offer(&self, node: usize, bytes: u64) {
        drop(self.with(node, |slot| slot.capacity = bytes));
    }
}
