//! What happens: a mesh comes up, misfortunes befall it in rounds, and at the end everything is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use datamesh::ports::Runtime;
use datamesh::runtime::NativeRuntime;
use datamesh::{Mesh, NodeId, Redundancy};
use futures::executor::block_on;
use futures::future;
use futures::stream::{self, StreamExt};
use rustix::process::Signal;

use crate::checker::{Outcome, Violation, judge};
use crate::draws::Draws;
use crate::effort::Effort;
use crate::fault::{self, Deck, Kind};
use crate::load::Book;
use crate::memory::{self, Samples};
use crate::proxy::Way;
use crate::summary::Summary;
use crate::swarm::{Swarm, is_tcp};
use crate::{Options, Result, node, stop};

/// The nodes that are there all the time.
pub(crate) const NODES: usize = 9;

/// Those that are never killed, so that their memory can be measured: one reached over TCP, one over QUIC.
const STEADY: [usize; 2] = [7, 8];

/// The holders that may be in trouble at once: the parity of the code.
pub(crate) const MOST: usize = 2;

/// How long the nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(90);

/// The pause between two looks at what should heal.
const PAUSE: Duration = Duration::from_millis(500);

/// Objects that are read at a time in the end.
const AT_ONCE: usize = 8;

/// How often a node is started before it counts as one that cannot be: the one that it joins by may be busy.
const ATTEMPTS: usize = 5;

/// Requests that each client has under way at a time.
const WORKERS: usize = 2;

/// How long removed objects may take to be gone from nodes that were away.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// The length of a run from which on growth is judged, and the growth that is too much in an hour.
const JUDGED_FROM: Duration = Duration::from_secs(3600);
const MOST_BYTES_PER_HOUR: f64 = (1 << 20) as f64;
const MOST_DESCRIPTORS_PER_HOUR: f64 = 10.0;

struct Run<'a> {
    options: &'a Options,
    seed: u64,
    runtime: Arc<dyn Runtime>,
    stop: Arc<AtomicBool>,
    swarm: Swarm,
    book: Arc<Book>,
    violations: Vec<Violation>,
    befell: BTreeMap<Kind, usize>,
    /// In how many rounds there was a misfortune.
    rounds: usize,
    healing: Vec<Duration>,
    /// Those whose disks were wiped: they never come back.
    wiped: Vec<NodeId>,
}

/// Runs it all, and says whether every promise was kept. Whatever goes wrong, the processes end with this function.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let stop = stop::at_signal()?;
    let seed = options.seed.unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(since.subsec_nanos()) ^ (since.as_secs() << 20)
    });
    // Removed with everything in it when this function ends, after the processes.
    let root = tempfile::Builder::new().prefix("datamesh-chaos-").tempdir()?;
    let runtime: Arc<dyn Runtime> = NativeRuntime::shared()?;
    let mut run = Run {
        options,
        seed,
        runtime: Arc::clone(&runtime),
        stop,
        swarm: Swarm::new(root.path(), NODES + 1)?,
        book: Book::new(seed, runtime),
        violations: Vec::new(),
        befell: BTreeMap::new(),
        rounds: 0,
        healing: Vec::new(),
        wiped: Vec::new(),
    };
    let summary = run.play(root.path())?;
    if options.json {
        println!("{}", summary.json())
    } else {
        println!("{}", summary.text())
    }
    Ok(summary.violations.is_empty())
}

impl Run<'_> {
    fn say(&self, text: &str) {
        let line = format!("{:>7.1} s  {text}", self.book.elapsed().as_secs_f64());
        if self.options.json { eprintln!("{line}") } else { println!("{line}") }
    }

    fn play(&mut self, root: &Path) -> Result<Summary> {
        self.say(&format!("{NODES} nodes, each a process, under {}; seed {}", root.display(), self.seed));
        for number in 0..NODES {
            self.start(number)?;
        }
        let (first, second) = (block_on(self.client(0))?, block_on(self.client(1))?);
        for client in [&first, &second] {
            block_on(client.wait_for_nodes(NODES, PATIENCE))?;
        }
        let processes = self.swarm.processes();
        let steady: Vec<u32> =
            processes.iter().filter(|(number, _)| STEADY.contains(number)).map(|(_, id)| *id).collect();
        let samples = memory::watch(&steady);
        let load = self.load(&first, &second);
        let draws = Draws::new(self.seed, "misfortunes");
        let mut deck = Deck::new(draws, &self.options.faults, NODES, &STEADY, self.options.at_once);
        let began = Instant::now();
        while began.elapsed() < self.options.duration() && !self.stop.load(Ordering::Relaxed) {
            if !self.heal(&first)? {
                // What does not heal now has no margin for more.
                break;
            }
            self.forget_wiped(&first);
            self.round(&mut deck, &first)?;
        }
        let lasted = began.elapsed();
        let stopped = lasted < self.options.duration() && self.stop.load(Ordering::Relaxed);
        let healed = self.heal(&first)?;
        self.forget_all(&first);
        self.book.stop.store(true, Ordering::Relaxed);
        load.join().map_err(|_| "the clients ended by a panic")?;
        self.judge_effort(lasted, stopped);
        if !healed {
            self.say("what has not healed is read all the same");
        }
        block_on(self.read_all())?;
        self.violations.extend(judge(&self.book.history()));
        let mut summary = self.summary(lasted, stopped, &steady, &samples);
        for client in [first, second] {
            block_on(client.shutdown())?;
        }
        for failed in self.swarm.end() {
            self.breach(failed);
        }
        summary.violations.clone_from(&self.violations);
        Ok(summary)
    }

    /// Clients that work until the book says stop.
    fn load(&self, first: &Mesh, second: &Mesh) -> JoinHandle<()> {
        let book = Arc::clone(&self.book);
        let clients = [first.clone(), second.clone()];
        thread::spawn(move || {
            let workers = clients.iter().enumerate().flat_map(|(number, mesh)| {
                let book = &book;
                (0..WORKERS).map(move |worker| async move {
                    book.work(mesh, &format!("client {number} worker {worker}")).await;
                })
            });
            block_on(future::join_all(workers));
        })
    }

    /// A client that joins by this node.
    async fn client(&self, number: usize) -> Result<Mesh> {
        let ticket = self.swarm.report(number).ok_or("that node has no process")?.ticket.parse()?;
        let redundancy = Redundancy::new(4, u8::try_from(MOST)?)?;
        Ok(node::networked().capacity(0).redundancy(redundancy).join(ticket).open().await?)
    }

    fn start(&mut self, number: usize) -> Result<()> {
        for attempt in 1.. {
            // Any node that lives will do; while nodes are started, nothing is cut.
            let tickets: Vec<String> = self
                .swarm
                .reports()
                .map(|(_, report)| report.ticket)
                .filter(|ticket| !ticket.is_empty())
                .collect();
            let ticket = tickets.get(attempt % tickets.len().max(1)).cloned().unwrap_or_default();
            match self.swarm.start(number, &ticket) {
                Err(error) if attempt < ATTEMPTS => self.say(&format!("{error}; it is started again")),
                started => {
                    started?;
                    break;
                }
            }
        }
        self.book.set_nodes(self.swarm.node_ids());
        Ok(())
    }

    fn kill(&mut self, number: usize) -> Result<()> {
        self.swarm.kill(number)?;
        self.book.set_nodes(self.swarm.node_ids());
        Ok(())
    }

    /// One round: some nodes are in trouble for a while, and then are not.
    fn round(&mut self, deck: &mut Deck, client: &Mesh) -> Result<()> {
        let befall = deck.round();
        if befall.is_empty() {
            // None of those that were drawn may have any of what is wanted.
            return Ok(());
        }
        self.rounds += 1;
        let told: Vec<String> =
            befall.iter().map(|(victim, kind)| format!("node {} {kind}", victim + 1)).collect();
        let lasts = Duration::from_millis(deck.draws().between(2_000, 9_000));
        self.say(&format!("{} for {:.1} s", told.join(", "), lasts.as_secs_f64()));
        for (victim, kind) in &befall {
            *self.befell.entry(*kind).or_default() += 1;
            self.begin(*victim, *kind, deck.draws())?;
        }
        if befall.iter().any(|(_, kind)| *kind == Kind::Guest) {
            return self.guest(client);
        }
        thread::sleep(lasts);
        // Those that live first, so that the others find them.
        for (victim, kind) in &befall {
            match kind {
                Kind::Stop => self.swarm.signal(*victim, Signal::CONT)?,
                Kind::Silent | Kind::Broken => self.swarm.links.set_way(*victim, Way::Open),
                Kind::Slow | Kind::Lossy => self.swarm.links.set_quality(*victim, Duration::ZERO, 0),
                _ => {}
            }
        }
        for (victim, kind) in &befall {
            if matches!(kind, Kind::Kill | Kind::Wipe | Kind::Clock) {
                self.start(*victim)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, victim: usize, kind: Kind, draws: &mut Draws) -> Result<()> {
        match kind {
            Kind::Kill => self.kill(victim),
            Kind::Stop => self.swarm.signal(victim, Signal::STOP),
            Kind::Silent => {
                self.swarm.links.set_way(victim, Way::Silent);
                Ok(())
            }
            Kind::Broken => {
                self.swarm.links.set_way(victim, Way::Broken);
                Ok(())
            }
            Kind::Slow => {
                let delay = Duration::from_millis(draws.between(20, 400));
                self.swarm.links.set_quality(victim, delay, 0);
                Ok(())
            }
            Kind::Lossy => {
                let loss = u16::try_from(draws.between(10, 150)).unwrap_or(10);
                self.swarm.links.set_quality(victim, Duration::from_millis(5), loss);
                Ok(())
            }
            Kind::Wipe => {
                let node = self.swarm.report(victim).and_then(|report| report.node);
                self.kill(victim)?;
                self.wipe(victim, node)
            }
            Kind::Clock => {
                self.kill(victim)?;
                // Up to an hour before or after.
                let hour = 3_600_000;
                let by = i64::try_from(draws.below(2 * hour)).unwrap_or(0) - 3_600_000;
                self.swarm.shift(victim, by)
            }
            Kind::Guest => self.start(victim),
        }
    }

    /// Has the guest stay until everything is where it belongs, and leave.
    fn guest(&mut self, client: &Mesh) -> Result<()> {
        self.heal(client)?;
        self.swarm.tell_to_leave(NODES)?;
        let began = Instant::now();
        while !self.swarm.report(NODES).is_some_and(|report| report.left) {
            if began.elapsed() > self.options.heal() {
                self.breach("the guest could not leave in time".to_owned());
                break;
            }
            thread::sleep(PAUSE);
        }
        self.say(&format!("the guest has left after {:.1} s", began.elapsed().as_secs_f64()));
        let node = self.swarm.report(NODES).and_then(|report| report.node);
        self.kill(NODES)?;
        self.wipe(NODES, node)
    }

    /// Takes all from the disk of a node, its identity too.
    fn wipe(&mut self, number: usize, node: Option<NodeId>) -> Result<()> {
        self.wiped.extend(node);
        self.swarm.wipe(number)
    }

    /// Does what a person does who has wiped a disk: says that this node never comes back.
    fn forget_wiped(&mut self, client: &Mesh) {
        // Who is not gone to the members yet is said again after the next misfortune.
        self.wiped.retain(|node| block_on(client.forget(*node)).is_err());
    }

    /// Says it until all are forgotten.
    fn forget_all(&mut self, client: &Mesh) {
        let began = Instant::now();
        loop {
            self.forget_wiped(client);
            if self.wiped.is_empty() {
                return;
            }
            if began.elapsed() > self.options.heal() {
                let count = self.wiped.len();
                return self.breach(format!("{count} nodes that were wiped could not be forgotten"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether enough was done for anything to be shown.
    fn judge_effort(&mut self, lasted: Duration, stopped: bool) {
        let (history, wanted) = (self.book.history(), fault::wanted(&self.options.faults));
        let (befell, rounds) = (&self.befell, self.rounds);
        let effort = Effort { history: &history, lasted, wanted: &wanted, befell, rounds, stopped };
        for shortfall in effort.shortfalls() {
            self.breach(shortfall);
        }
    }

    fn breach(&mut self, text: String) {
        self.say(&format!("BROKEN: {text}"));
        self.violations.push(Violation { at: self.book.elapsed(), text });
    }

    /// Waits until every object has its full margin, by a recount. Says whether it came back in time.
    fn heal(&mut self, client: &Mesh) -> Result<bool> {
        let began = Instant::now();
        loop {
            let (short, all) = block_on(self.book.recount(client, MOST));
            let accused: u64 = self.swarm.reports().map(|(_, report)| report.distrusted).sum();
            if accused > 0 {
                self.breach(format!("{accused} times a node distrusts another, and all are honest"));
                return Ok(false);
            }
            if short == 0 {
                let took = began.elapsed();
                self.healing.push(took);
                self.say(&format!(
                    "all {all} objects have their full margin after {:.1} s",
                    took.as_secs_f64()
                ));
                return Ok(true);
            }
            if began.elapsed() > self.options.heal() {
                let says: Vec<String> = self
                    .swarm
                    .reports()
                    .map(|(number, report)| {
                        let (short, rebuilt, moved) = (report.short, report.rebuilt, report.moved);
                        format!(
                            "node {} sees {short} short, {rebuilt} B rebuilt, {moved} B moved",
                            number + 1
                        )
                    })
                    .collect();
                let text = format!("{short} of {all} objects have not healed in time; {}", says.join("; "));
                self.breach(text);
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
    }

    /// A client that had no part in it reads everything that should be there, and nothing that should not.
    async fn read_all(&mut self) -> Result<()> {
        let client = self.client(STEADY.into_iter().find(|number| is_tcp(*number)).unwrap_or(0)).await?;
        client.wait_for_nodes(NODES, PATIENCE).await?;
        let kept = self.book.numbers(false);
        self.say(&format!("a client that had no part in it reads {} objects", kept.len()));
        for number in kept {
            // Noted in the book, and judged with all others.
            self.book.get(&client, number).await;
        }
        let mut left = self.book.numbers(true);
        let began = Instant::now();
        while !left.is_empty() && began.elapsed() < GONE_AFTER {
            let mut still = Vec::new();
            let get = |number| {
                let (book, client) = (&self.book, &client);
                async move { (number, book.get(client, number).await) }
            };
            let mut gets = stream::iter(left.into_iter().map(get)).buffer_unordered(AT_ONCE);
            while let Some((number, outcome)) = gets.next().await {
                if outcome == Outcome::Right {
                    still.push(number);
                }
            }
            drop(gets);
            left = still;
            if !left.is_empty() {
                self.runtime.sleep(PAUSE).await;
            }
        }
        // A removal that failed promises nothing.
        let history = self.book.history();
        let acknowledged = |number: &u64| {
            let is_done = |outcome: &Outcome| matches!(outcome, Outcome::Done | Outcome::DoneInPart);
            history.iter().any(|one| {
                one.object == *number && one.verb == crate::checker::Verb::Remove && is_done(&one.outcome)
            })
        };
        for number in left.iter().filter(|number| acknowledged(number)) {
            self.breach(format!("object {number} was removed, and is still there"));
        }
        client.shutdown().await?;
        Ok(())
    }

    fn summary(&mut self, lasted: Duration, stopped: bool, steady: &[u32], samples: &Samples) -> Summary {
        let samples = samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let warm_up = lasted / 4;
        let growth: Vec<memory::Growth> = steady
            .iter()
            .map(|id| memory::growth(samples.get(id).map_or(&[][..], Vec::as_slice), warm_up))
            .collect();
        let judged = lasted >= JUDGED_FROM;
        if judged {
            for (one, number) in growth.iter().zip(STEADY) {
                if one.bytes_per_hour > MOST_BYTES_PER_HOUR {
                    let text =
                        format!("node {} grows by {:.0} bytes an hour", number + 1, one.bytes_per_hour);
                    self.breach(text);
                }
                if one.descriptors_per_hour > MOST_DESCRIPTORS_PER_HOUR {
                    let more = one.descriptors_per_hour;
                    self.breach(format!("node {} opens {more:.1} descriptors more an hour", number + 1));
                }
            }
        }
        Summary {
            seed: self.seed,
            lasted,
            again: self.options.command(self.seed),
            befell: self.befell.clone(),
            healing: self.healing.clone(),
            history: self.book.history(),
            violations: self.violations.clone(),
            growth: growth.into_iter().zip(STEADY).collect(),
            judged,
            stopped,
            thin: self.book.thin.load(Ordering::Relaxed),
            bytes: self.book.bytes.load(Ordering::Relaxed),
            carried: self.swarm.links.carried.load(Ordering::Relaxed),
            lost: self.swarm.links.lost.load(Ordering::Relaxed),
        }
    }
}
