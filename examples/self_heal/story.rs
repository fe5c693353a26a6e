//! What happens to the mesh, and what is asked of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datamesh::ports::Runtime;
use datamesh::runtime::NativeRuntime;
use datamesh::{Mesh, Redundancy};
use futures::executor::block_on;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;

use crate::corpus::{self, Item};
use crate::node::GRACE;
use crate::swarm::{Moved, Swarm};
use crate::view::View;
use crate::watch::{Histogram, recount};
use crate::{Options, Result, stop};

/// The nodes that are killed, the one that loses its disk, and the one whose disk rots, counted from 0.
const KILLED: [usize; 2] = [2, 5];
const WIPED: usize = 3;
const ROTTEN: usize = 4;

/// How many shards rot.
const ROTTEN_SHARDS: usize = 24;

/// Files that are put, or read and compared, at a time.
const AT_ONCE: usize = 4;

/// How long the nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two counts.
const PAUSE: Duration = Duration::from_millis(400);

/// How one misfortune was healed.
#[derive(Debug)]
struct Healing {
    misfortune: String,
    /// Until every margin was full, and stayed so.
    took: Duration,
    /// Until the nodes had found the same.
    agreed: Duration,
    /// The most that was lost while it was watched.
    worst: Histogram,
    moved: Moved,
    /// From the first rebuilt shard to the last.
    busy: Duration,
    /// What the nodes might have moved in a second.
    budget: u64,
    set_aside: u64,
}

impl Healing {
    /// Bytes that were read and written for it in a second.
    fn rate(&self) -> f64 {
        (self.moved.read + self.moved.rebuilt) as f64 / self.busy.as_secs_f64().max(0.25)
    }

    fn text(&self) -> String {
        format!(
            "{}: full margin after {:.1} s, agreed by all nodes after {:.1} s; {:.1} MB rebuilt from {:.1} MB, at {:.1} \
             of at most {:.1} MB/s; {:.1} MB moved home",
            self.misfortune,
            self.took.as_secs_f64(),
            self.agreed.as_secs_f64(),
            self.moved.rebuilt as f64 / 1e6,
            self.moved.read as f64 / 1e6,
            self.rate() / 1e6,
            self.budget as f64 / 1e6,
            self.moved.moved as f64 / 1e6,
        )
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "misfortune": self.misfortune,
            "seconds": self.took.as_secs_f64(),
            "agreed_seconds": self.agreed.as_secs_f64(),
            "worst": { "unreadable": self.worst.lost, "by_margin": self.worst.by_margin },
            "bytes_read": self.moved.read,
            "bytes_rebuilt": self.moved.rebuilt,
            "bytes_moved": self.moved.moved,
            "bytes_per_s": self.rate(),
            "budget_bytes_per_s": self.budget,
            "shards_set_aside": self.set_aside,
        })
    }
}

struct Story<'a> {
    options: &'a Options,
    runtime: Arc<dyn Runtime>,
    stop: Arc<AtomicBool>,
    redundancy: Redundancy,
    items: Vec<Item>,
    swarm: Swarm,
    view: View,
}

/// Runs it all. Whatever goes wrong, the processes end with this function.
pub(crate) fn run(options: &Options) -> Result<()> {
    let stop = stop::at_signal()?;
    // Removed with everything in it when this function ends, after the processes.
    let root = tempfile::Builder::new().prefix("datamesh-self-heal-").tempdir()?;
    let items = match &options.from {
        Some(directory) => corpus::collect(directory, options.files)?,
        None => corpus::generate(&root.path().join("files"), options.files, options.size)?,
    };
    // So that the five that are left when two were killed give each shard a node of its own.
    let data = if options.nodes < 8 { 3 } else { 4 };
    let redundancy = Redundancy::new(data, 2)?;
    let view = View::new(redundancy.parity(), items.len(), options.json)?;
    let swarm = Swarm::new(root.path(), options.nodes, options.budget);
    let mut story =
        Story { options, runtime: NativeRuntime::shared()?, stop, redundancy, items, swarm, view };
    let done = block_on(story.tell(root.path()));
    story.view.end();
    let summary = done?;
    println!("{summary}");
    Ok(())
}

impl Story<'_> {
    async fn tell(&mut self, root: &Path) -> Result<String> {
        let (nodes, files) = (self.options.nodes, self.items.len());
        self.view.say(&format!("{nodes} nodes open, each a process, under {}", root.display()));
        for number in 0..nodes {
            self.swarm.start(number)?;
        }
        let client = self.client().await?;
        client.wait_for_nodes(nodes, PATIENCE).await?;
        let bytes: u64 = self.items.iter().map(|item| item.len).sum();
        self.view.say(&format!(
            "{files} files of {:.1} MB are put with {}",
            bytes as f64 / 1e6,
            self.redundancy
        ));
        let put = self.put(&client).await?;
        let mut healings = vec![self.kill(&client).await?, self.wipe(&client).await?];
        healings.push(self.rot(&client).await?);
        client.shutdown().await?;

        self.view.say(
            "a client that had no part in this joins by the node that lost its disk, and reads everything",
        );
        let reader = self.client_by(WIPED).await?;
        let started = Instant::now();
        let compared = stream::iter(&self.items).map(|item| corpus::compare(&reader, item));
        compared.buffer_unordered(AT_ONCE).try_for_each(|()| std::future::ready(Ok(()))).await?;
        let read = started.elapsed();
        let last = recount(&reader, &self.items, self.redundancy.parity()).await;
        reader.shutdown().await?;
        self.swarm.end()?;
        if !last.is_full() {
            return Err(format!("the margin did not last: {}", last.text()).into());
        }
        Ok(self.summary(bytes, put, read, &healings, &last))
    }

    async fn client(&self) -> Result<Mesh> {
        self.client_by(0).await
    }

    /// A client that joins by this node.
    async fn client_by(&self, number: usize) -> Result<Mesh> {
        let ticket = self.swarm.report(number).ok_or("that node has no process")?.ticket.parse()?;
        let builder = datamesh::builder().capacity(0).redundancy(self.redundancy).join(ticket);
        Ok(builder.open().await?)
    }

    async fn put(&mut self, client: &Mesh) -> Result<Duration> {
        let started = Instant::now();
        let put = |number: usize, item: &Item| {
            let request = client.put(item.path.as_path());
            async move { Ok::<_, datamesh::Error>((number, request.await?.capability)) }
        };
        let puts = stream::iter(self.items.iter().enumerate().map(|(number, item)| put(number, item)));
        let put: Vec<_> = puts.buffer_unordered(AT_ONCE).try_collect().await?;
        for (number, capability) in put {
            if let Some(item) = self.items.get_mut(number) {
                item.capability = Some(capability);
            }
        }
        let took = started.elapsed();
        self.until(client, "files put", "everything is where it belongs", |_| true).await?;
        Ok(took)
    }

    async fn kill(&mut self, client: &Mesh) -> Result<Healing> {
        let mut ids = Vec::new();
        for number in KILLED {
            ids.push(format!("node {} (process {})", number + 1, self.swarm.kill(number)?));
        }
        self.view.say(&format!(
            "kill -9: {}; after {} s they count as gone",
            ids.join(" and "),
            GRACE.as_secs()
        ));
        let healing =
            self.until(client, "two nodes killed", "the others rebuild what they held", |_| true).await?;
        let fell = healing.worst.by_margin.first().is_some_and(|none| *none > 0);
        if fell { Ok(healing) } else { Err("two nodes were killed, and no file came near its limit".into()) }
    }

    async fn wipe(&mut self, client: &Mesh) -> Result<Healing> {
        self.swarm.kill(WIPED)?;
        self.swarm.wipe(WIPED)?;
        self.swarm.start(WIPED)?;
        self.view.say(&format!(
            "node {} lost its disk and joins anew, under a new identity: the old one was on that disk",
            WIPED + 1
        ));
        let healing =
            self.until(client, "one disk wiped", "what was on that disk is rebuilt", |_| true).await?;
        if healing.worst.is_full() { Err("a disk was wiped, and no margin fell".into()) } else { Ok(healing) }
    }

    async fn rot(&mut self, client: &Mesh) -> Result<Healing> {
        let before = self.swarm.report(ROTTEN).ok_or("the node that was to rot has no process")?;
        let rotten = self.swarm.rot(ROTTEN, ROTTEN_SHARDS)?;
        self.view
            .say(&format!("a byte is altered in each of {rotten} shards on the disk of node {}", ROTTEN + 1));
        // The second pass from now on has begun after the rot, and so read all of it.
        let passes = before.scrub_rounds + 2;
        let doing = "the node reads all that it has, and what has rotted is made anew";
        let is_read = move |swarm: &Swarm| {
            let report = swarm.report(ROTTEN);
            report.is_some_and(|report| report.scrub_rounds >= passes && report.set_aside > before.set_aside)
        };
        let misfortune = format!("{rotten} shards altered");
        self.until(client, &misfortune, doing, is_read).await
    }

    /// Watches until all margins are full, by a recount and by what the nodes say, and something else holds too.
    async fn until(
        &mut self,
        client: &Mesh,
        misfortune: &str,
        doing: &str,
        holds: impl Fn(&Swarm) -> bool,
    ) -> Result<Healing> {
        let (started, before) = (Instant::now(), self.swarm.moved());
        let set_aside = |swarm: &Swarm| swarm.reports().map(|(_, report)| report.set_aside).sum::<u64>();
        let set_aside_before = set_aside(&self.swarm);
        let rounds: BTreeMap<usize, u64> =
            self.swarm.reports().map(|(number, report)| (number, report.rounds)).collect();
        let mut worst: Option<Histogram> = None;
        let (mut last, mut first_byte, mut last_byte, mut full_since) = (before, None, None, None);
        loop {
            let histogram = recount(client, &self.items, self.redundancy.parity()).await;
            let moved = self.swarm.moved();
            full_since = if histogram.is_full() { full_since.or(Some(started.elapsed())) } else { None };
            if moved.rebuilt != last.rebuilt {
                last = moved;
                last_byte = Some(Instant::now());
                first_byte = first_byte.or(last_byte);
            }
            self.view.show(doing, &histogram, &self.swarm);
            let is_worse = |worst: &Histogram| badness(&histogram) > badness(worst);
            if worst.as_ref().is_none_or(is_worse) {
                worst = Some(histogram.clone());
            }
            if histogram.is_full() && holds(&self.swarm) && self.nodes_agree(&rounds, &histogram) {
                let busy = first_byte.zip(last_byte).map_or(Duration::ZERO, |(first, last)| last - first);
                let healing = Healing {
                    misfortune: misfortune.to_owned(),
                    took: full_since.unwrap_or_default(),
                    agreed: started.elapsed(),
                    worst: worst.unwrap_or(histogram),
                    moved: moved.since(before),
                    busy,
                    budget: self.swarm.budget(),
                    set_aside: set_aside(&self.swarm).saturating_sub(set_aside_before),
                };
                self.view.say(&healing.text());
                return Ok(healing);
            }
            if started.elapsed() > self.options.deadline() {
                let text = histogram.text();
                return Err(format!("not healed in time: {text}; {}", self.swarm.says()).into());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err("stopped by the user".into());
            }
            self.runtime.sleep(PAUSE).await;
        }
    }

    /// Whether every node has looked since, found all that it is the first to look after in order, and all extents have
    /// one who looks after them.
    fn nodes_agree(&self, rounds: &BTreeMap<usize, u64>, histogram: &Histogram) -> bool {
        let has_looked = |number: &usize, now: u64| now > rounds.get(number).copied().unwrap_or(0);
        let is_fine = self
            .swarm
            .reports()
            .all(|(number, report)| report.short == 0 && has_looked(&number, report.rounds));
        let extents: u64 = self.swarm.reports().map(|(_, report)| report.extents).sum();
        is_fine && extents == histogram.extents as u64
    }

    fn summary(
        &self,
        bytes: u64,
        put: Duration,
        read: Duration,
        healings: &[Healing],
        last: &Histogram,
    ) -> String {
        let files = self.items.len();
        if self.options.json {
            let healings: Vec<_> = healings.iter().map(Healing::to_json).collect();
            return json!({
                "files": files,
                "bytes": bytes,
                "nodes": self.options.nodes,
                "redundancy": self.redundancy.to_string(),
                "grace_seconds": GRACE.as_secs(),
                "put_seconds": put.as_secs_f64(),
                "healings": healings,
                "read_seconds": read.as_secs_f64(),
                "margins": { "unreadable": last.lost, "by_margin": last.by_margin },
            })
            .to_string();
        }
        let mut lines = vec![String::new()];
        lines.push(format!(
            "put       {files} files, {:.1} MB, in {:.1} s",
            bytes as f64 / 1e6,
            put.as_secs_f64()
        ));
        lines.extend(healings.iter().map(|healing| format!("healed    {}", healing.text())));
        let set_aside: u64 = healings.iter().map(|healing| healing.set_aside).sum();
        lines.push(format!(
            "rot       {set_aside} of the altered shards were still in use; they were set aside and made anew"
        ));
        lines.push(format!(
            "compared  every byte of {files} files, in {:.1} s: all are as they were",
            read.as_secs_f64()
        ));
        lines.push(format!("margins   {}", last.text()));
        lines.join("\n")
    }
}

/// How much worse a histogram is than a full one: files that are near their limit count most.
fn badness(histogram: &Histogram) -> (usize, Vec<usize>) {
    (histogram.lost, histogram.by_margin.clone())
}
