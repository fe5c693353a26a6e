//! Every moment of a run at which the power could go, and what is found when it comes back.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datamesh_core::ports::Storage;
use datamesh_store::DiskStore;
use datamesh_store::crash::{Image, Keep, Medium, Moment, Recording, Replay};
use futures::executor::block_on;

use super::check::{Expected, Found, Verdict, check, write_probe};
use super::script::{Step, Teller};
use super::world::World;
use super::{MEDIUM_BYTES, options};

/// The marks of a recovery.
const OPENED: u64 = 1;
const PROBE_BEGUN: u64 = 2;
const PROBE_DONE: u64 = 3;

/// Recovered stores that are not recovered again are written to only now and then, which takes time.
const PROBE_EVERY: u64 = 5;

/// How often a sweep tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// How thorough a sweep is.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Random images of each kind at each point.
    pub(crate) images: u64,
    /// One image out of this many is recovered under crashes, too; none where it is 0.
    pub(crate) deeper_every: u64,
    /// Only this point, to look at one failure.
    pub(crate) only: Option<usize>,
    /// Threads that take one point after another.
    pub(crate) threads: usize,
}

/// What a sweep has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    /// Moments at which the power went.
    pub(crate) points: u64,
    /// Images that were compared with what may be found.
    pub(crate) images: u64,
    /// The same of crashes during recovery.
    pub(crate) deeper_points: u64,
    pub(crate) deeper_images: u64,
    /// Of both, those in which a store was opened: the others were equal to one of these.
    pub(crate) opened: u64,
    /// Recoveries under crashes that were left out, because they began with an image that was recovered so before.
    pub(crate) equal_recoveries: u64,
}

/// An image that broke a promise.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) point: usize,
    pub(crate) keep: Keep,
    /// Point and image of the recovery, where the second crash broke it.
    pub(crate) deeper: Option<(usize, Keep)>,
    pub(crate) what: String,
    /// How far the sweep was.
    pub(crate) report: Report,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the power went at point {} and left {:?}", self.point, self.keep)?;
        if let Some((point, keep)) = self.deeper {
            write!(f, ", and in recovery at point {point} and left {keep:?}")?;
        }
        write!(f, ": {}; {:?}", self.what, self.report)
    }
}

/// Runs a script to its end.
pub(crate) fn record(script: &[Step]) -> Verdict<(Recording, World)> {
    let medium = Medium::new(MEDIUM_BYTES);
    let mut teller = Teller::new(&medium).map_err(|error| format!("{error:?}"))?;
    for step in script {
        block_on(teller.step(step)).map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    block_on(teller.store.close()).map_err(|error| format!("{error:?}"))?;
    Ok((medium.recording(), teller.world))
}

/// Lets the power go at every point of a recording.
pub(crate) fn sweep(recording: &Recording, world: &World, plan: &Plan) -> Result<Report, Box<Broken>> {
    let sweep = Sweep {
        recording,
        world,
        plan,
        next: AtomicUsize::new(1),
        known: Mutex::default(),
        report: Mutex::default(),
        broken: Mutex::default(),
        told: Mutex::new(Instant::now()),
    };
    thread::scope(|scope| {
        (0..plan.threads).for_each(|_| drop(scope.spawn(|| sweep.take_points())));
    });
    let report = sweep.report();
    match sweep.broken.into_inner().expect("no panic") {
        Some(broken) => Err(Box::new(Broken { report, ..broken })),
        None => Ok(report),
    }
}

/// A sweep that is under way, which threads share.
struct Sweep<'a> {
    recording: &'a Recording,
    world: &'a World,
    plan: &'a Plan,
    /// The next point that nobody has taken.
    next: AtomicUsize,
    /// What was found in each image, by its hash.
    known: Mutex<HashMap<[u8; 32], Known>>,
    report: Mutex<Report>,
    broken: Mutex<Option<Broken>>,
    told: Mutex<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    found: Found,
    /// Whether it was recovered under crashes.
    is_deeper: bool,
}

impl Sweep<'_> {
    fn report(&self) -> Report {
        *self.report.lock().expect("no panic")
    }

    fn count(&self, count: impl FnOnce(&mut Report)) {
        count(&mut self.report.lock().expect("no panic"));
    }

    fn is_over(&self) -> bool {
        self.broken.lock().expect("no panic").is_some()
    }

    /// Walks through the recording, and stops at the points that no other thread takes.
    fn take_points(&self) {
        let (mut acknowledged, mut begun, mut images) = (0, 0, 0);
        let mut mine = self.next.fetch_add(1, Ordering::Relaxed);
        let mut points = Points::new(self.recording);
        while let Some((moment, keeps)) = points.next(self.plan.images) {
            if let Moment::Mark(mark) = moment {
                let index = (mark / 2) as usize;
                if mark % 2 == 1 { acknowledged = index } else { begun = index }
            }
            let first = images;
            images += keeps.len() as u64;
            if points.point != mine {
                continue;
            }
            mine = self.next.fetch_add(1, Ordering::Relaxed);
            if self.plan.only.is_some_and(|only| only != points.point) {
                continue;
            }
            let expected = Expected { commits: acknowledged..=begun, probe: Some(false) };
            self.count(|report| report.points += u64::from(!matches!(moment, Moment::Mark(_))));
            for (number, keep) in (first + 1..).zip(keeps) {
                if self.is_over() {
                    return;
                }
                if let Err((what, deeper)) = self.look(&points.replay, keep, number, &expected) {
                    let (point, report) = (points.point, self.report());
                    let broken = Broken { point, keep, deeper, what, report };
                    self.broken.lock().expect("no panic").get_or_insert(broken);
                    return;
                }
            }
            self.tell(points.point);
        }
    }

    /// Looks at one image, and at its recovery where its number says so.
    fn look(
        &self,
        replay: &Replay<'_>,
        keep: Keep,
        number: u64,
        expected: &Expected,
    ) -> Result<(), (String, Option<(usize, Keep)>)> {
        self.count(|report| report.images += 1);
        let image = replay.image(keep);
        let every = self.plan.deeper_every;
        if every == 0 || !number.is_multiple_of(every) {
            return self.check(image, expected, true).map_err(|what| (what, None));
        }
        let hash = image.hash();
        if self.known(&hash).is_some_and(|known| known.is_deeper) {
            self.count(|report| report.equal_recoveries += 1);
            return self.check(image, expected, true).map_err(|what| (what, None));
        }
        let recovery = self.recover(image, hash, expected, true).map_err(|what| (what, None))?;
        self.deeper(&recovery, expected)?;
        if let Some(known) = self.known.lock().expect("no panic").get_mut(&hash) {
            known.is_deeper = true;
        }
        Ok(())
    }

    /// Lets the power go at every point of a recovery.
    fn deeper(
        &self,
        recovery: &Recovery,
        expected: &Expected,
    ) -> Result<(), (String, Option<(usize, Keep)>)> {
        let mut expected = expected.clone();
        let mut points = Points::new(&recovery.recording);
        while let Some((moment, keeps)) = points.next(self.plan.images) {
            match moment {
                // What a reader has seen stays.
                Moment::Mark(OPENED) => expected.commits = recovery.found.last..=recovery.found.last,
                Moment::Mark(PROBE_BEGUN) => expected.probe = None,
                Moment::Mark(PROBE_DONE) => expected.probe = Some(true),
                _ => self.count(|report| report.deeper_points += 1),
            }
            for keep in keeps {
                self.count(|report| report.deeper_images += 1);
                let outcome = self.check(points.replay.image(keep), &expected, expected.probe == Some(false));
                outcome.map_err(|what| (what, Some((points.point, keep))))?;
            }
        }
        Ok(())
    }

    fn known(&self, hash: &[u8; 32]) -> Option<Known> {
        self.known.lock().expect("no panic").get(hash).copied()
    }

    /// Compares an image with what may be found in it. Equal images hold the same, so each is opened once.
    fn check(&self, image: Image, expected: &Expected, may_probe: bool) -> Verdict<()> {
        let hash = image.hash();
        match self.known(&hash) {
            Some(known) => expected.allows(known.found),
            None => {
                let is_probed = may_probe && self.report().opened.is_multiple_of(PROBE_EVERY);
                self.recover(image, hash, expected, is_probed).map(drop)
            }
        }
    }

    fn recover(
        &self,
        image: Image,
        hash: [u8; 32],
        expected: &Expected,
        is_probed: bool,
    ) -> Verdict<Recovery> {
        self.count(|report| report.opened += 1);
        let recovery = recover(image, self.world, expected, is_probed)?;
        let known = Known { found: recovery.found, is_deeper: false };
        self.known.lock().expect("no panic").entry(hash).or_insert(known);
        Ok(recovery)
    }

    /// Tells now and then how far the sweep is.
    #[expect(clippy::print_stderr, reason = "a long test shows that it goes on")]
    fn tell(&self, point: usize) {
        let mut told = self.told.lock().expect("no panic");
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            eprintln!("point {point} of {}: {:?}", self.recording.moments(), self.report());
        }
    }
}

/// What happened when a store was opened on an image.
struct Recovery {
    recording: Recording,
    found: Found,
}

/// Opens a store on an image, compares it with the world, and where `is_probed` sees that it still works.
fn recover(image: Image, world: &World, expected: &Expected, is_probed: bool) -> Verdict<Recovery> {
    let medium = Medium::with_image(image, MEDIUM_BYTES);
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(reopen(&medium, world, expected, is_probed))));
    let found = outcome.unwrap_or_else(|_| Err("a panic".to_owned()))?;
    Ok(Recovery { recording: medium.recording(), found })
}

async fn reopen(medium: &Medium, world: &World, expected: &Expected, is_probed: bool) -> Verdict<Found> {
    // Looking through the records file takes as long as all the rest.
    let mut options = options();
    options.check_bytes = if is_probed { 16 << 20 } else { 0 };
    let store = DiskStore::open_with(medium.files(), medium.records(), options);
    let store = store.map_err(|error| format!("not opened: {error:?}"))?;
    medium.mark(OPENED);
    let found = check(&store, world, expected).await?;
    if is_probed {
        medium.mark(PROBE_BEGUN);
        write_probe(&store).await?;
        medium.mark(PROBE_DONE);
    }
    store.close().await.map_err(|error| format!("not closed: {error:?}"))?;
    Ok(found)
}

/// The moments of a recording, and at each the images that no earlier moment had.
struct Points<'a> {
    replay: Replay<'a>,
    point: usize,
    /// Images in which nothing or everything was kept are the same until something is synced or changed.
    none_is_new: bool,
    all_is_new: bool,
}

impl<'a> Points<'a> {
    fn new(recording: &'a Recording) -> Self {
        Self { replay: recording.replay(), point: 0, none_is_new: true, all_is_new: true }
    }

    fn next(&mut self, images: u64) -> Option<(Moment, Vec<Keep>)> {
        let moment = self.replay.advance()?;
        match moment {
            Moment::Change => self.all_is_new = true,
            Moment::Sync => self.none_is_new = true,
            // Something else is expected of what was seen before.
            Moment::Mark(_) => (self.none_is_new, self.all_is_new) = (true, true),
        }
        self.point += 1;
        let mut keeps = Vec::new();
        if std::mem::take(&mut self.none_is_new) {
            keeps.push(Keep::None);
        }
        if self.replay.unsynced() > 0 {
            if std::mem::take(&mut self.all_is_new) {
                keeps.push(Keep::All);
            }
            if self.replay.extends() {
                keeps.push(Keep::Unextended);
            }
            let seeds = (0..images).map(|image| (self.point as u64) << 16 | image);
            keeps.extend(seeds.flat_map(|seed| [Keep::Prefix(seed), Keep::Subset(seed)]));
        }
        Some((moment, keeps))
    }
}
