//! The end of a campaign: everything is whole again, and everything that was promised has to hold.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{self, Either};

use crate::id::ObjectId;
use crate::sim::draws::Draws;
use crate::sim::invariants as must;
use crate::sim::play::{CLIENTS, Play};

/// For how long nodes may still settle after everything is whole: reconnection, gossip, clean-ups.
const SETTLE: Duration = Duration::from_secs(60);

/// How long care may take until every margin is full, when nothing goes wrong any more.
const CARE_LIMIT: Duration = Duration::from_secs(600);

/// What takes longer hangs when nothing is wrong any more.
const CALM_LIMIT: Duration = Duration::from_secs(120);

/// Puts of the calm that follows.
const CALM_PUTS: usize = 6;

/// How often it is looked whether nothing is under way any more: between two looks, gossip may be.
const LOOKS: usize = 200;

impl Play {
    /// Checks everything.
    pub(super) async fn finale(self: &Arc<Self>, draws: &mut Draws) {
        self.sim.sleep(SETTLE).await;
        self.check_members().await;
        self.check_care().await;
        self.check_objects(draws).await;
        self.check_disks();
        self.calm(draws).await;
        self.check_nodes().await;
    }

    async fn check_members(&self) {
        let meshes = || (0..self.sim.len()).filter_map(|node| self.sim.mesh(node).ok()).collect::<Vec<_>>();
        // A record that changed last may need some more rounds of gossip.
        let mut check = must::i5_members_agree(&meshes());
        for _ in 0..10 {
            if check.is_ok() {
                break;
            }
            self.sim.sleep(SETTLE).await;
            check = must::i5_members_agree(&meshes());
        }
        self.must("i5_members_agree", "after ten minutes of calm", check);
    }

    /// Care brings every object back to its full margin.
    async fn check_care(&self) {
        let mut check = Ok(());
        let began = self.sim.now();
        while self.sim.now() - began < CARE_LIMIT {
            check = must::i8_margins_are_restored(&self.sim, &self.model());
            if check.is_ok() {
                break;
            }
            self.sim.sleep(Duration::from_secs(10)).await;
        }
        self.must("i8_margins_are_restored", "after ten minutes of calm", check);
    }

    async fn check_objects(self: &Arc<Self>, draws: &mut Draws) {
        let ids: Vec<ObjectId> = self.model().objects.keys().copied().collect();
        for id in ids {
            let node = draws.index(self.sim.len());
            self.read(draws, node, id, false).await;
            if self.result().is_err() {
                return;
            }
        }
    }

    fn check_disks(&self) {
        let (sim, model) = (&self.sim, self.model());
        let checks = [
            ("i3_not_stored_leaves_nothing", must::i3_not_stored_leaves_nothing(sim, &model)),
            ("i8_promised_shards_are_there", must::i8_promised_shards_are_there(sim, &model)),
            ("i8_margins_are_as_acknowledged", must::i8_margins_are_as_acknowledged(sim, &model)),
            ("i8_removed_leaves_nothing", must::i8_removed_leaves_nothing(sim, &model)),
            ("i11_no_nonce_twice", must::i11_no_nonce_twice(sim)),
        ];
        drop(model);
        for (invariant, check) in checks {
            self.must(invariant, "at the end", check);
        }
    }

    /// Puts that succeed and puts that are given up, when nothing goes wrong: all succeed, and nothing is left behind.
    async fn calm(self: &Arc<Self>, draws: &mut Draws) {
        let before = self.staged();
        for _ in 0..CALM_PUTS {
            let node = draws.index(self.sim.len());
            self.put_in_calm(draws, node).await;
            self.give_up_in_calm(draws, node).await;
        }
        self.sim.sleep(SETTLE).await;
        let after = self.staged();
        // What care commits was staged, and may have been for long.
        let none_more = after.iter().zip(&before).all(|(after, before)| after <= before);
        let text = format!("{before:?} shards were staged on the nodes, and now {after:?}");
        self.must("i10_nothing_is_left_behind", "staging", none_more.then_some(()).ok_or(text));
    }

    fn staged(&self) -> Vec<usize> {
        (0..self.sim.len()).map(|node| self.sim.staged(node)).collect()
    }

    async fn put_in_calm(self: &Arc<Self>, draws: &mut Draws, node: usize) {
        let Ok(mesh) = self.sim.mesh(node) else { return };
        let (content, begun) = (Self::content(draws, self.segment_bytes()), self.sim.now());
        let request = mesh.put(content.clone());
        let outcome = self.timed(node, "put in calm", CALM_LIMIT, async move { request.await }).await;
        match outcome {
            Some(Ok(receipt)) => {
                self.count("put in calm", "stored");
                self.model().stored(&self.sim, &receipt, content, begun);
                let reader = draws.index(self.sim.len());
                self.read(draws, reader, receipt.object, false).await;
            }
            outcome => {
                self.must("liveness_puts_succeed", &format!("node {node}"), Err(format!("{outcome:?}")));
            }
        }
    }

    async fn give_up_in_calm(self: &Arc<Self>, draws: &mut Draws, node: usize) {
        let Ok(mesh) = self.sim.mesh(node) else { return };
        let content = draws.bytes(100_000);
        let patience = draws.time(Duration::from_micros(500), Duration::from_millis(20));
        let sim = self.sim.clone();
        let operation = async move {
            let patience = std::pin::pin!(sim.sleep(patience));
            match future::select(mesh.put(content).into_future(), patience).await {
                Either::Left((result, _)) => Some(result),
                Either::Right(_) => None,
            }
        };
        match self.timed(node, "put given up in calm", CALM_LIMIT, operation).await.flatten() {
            Some(Ok(_)) => self.count("put given up in calm", "stored before"),
            _ => self.count("put given up in calm", "given up"),
        }
    }

    /// Nothing is under way on any node, nothing is held, and the budgets are whole.
    async fn check_nodes(&self) {
        let mut seen = (usize::MAX, usize::MAX, usize::MAX);
        for _ in 0..LOOKS {
            let now = self.sim.network().in_flight();
            seen = (seen.0.min(now.0), seen.1.min(now.1), seen.2.min(now.2));
            self.sim.sleep(Duration::from_millis(37)).await;
        }
        let text = format!("{} calls, {} answers, {} packets never end", seen.0, seen.1, seen.2);
        self.must("i10_nothing_is_left_behind", "network", (seen == (0, 0, 0)).then_some(()).ok_or(text));
        for node in 0..self.sim.len() {
            let Ok(mesh) = self.sim.mesh(node) else { continue };
            let about = format!("node {node}");
            self.must("i10_budgets_are_whole", &about, must::i10_budgets_are_whole(&mesh));
            let peak = self.sim.network().peak_of(node);
            let check = must::i10_memory_stays_in_its_bounds(peak, self.most_under_way());
            self.must("i10_memory_stays_in_its_bounds", &format!("{about}, {CLIENTS} clients"), check);
        }
    }
}
