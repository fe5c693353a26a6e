//! Every moment of a run at which the power could go, and what is found when it comes back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datamesh_core::ports::Storage;
use datamesh_store::DiskStore;
use datamesh_store::crash::{Image, Keep, Medium, Moment, Recording, Replay};
use futures::executor::block_on;

use super::check::{Expected, Verdict, check, write_probe};
use super::script::{Step, Teller};
use super::world::World;
use super::{MEDIUM_BYTES, options};

/// The marks of a recovery.
const OPENED: u64 = 1;
const PROBE_BEGUN: u64 = 2;
const PROBE_DONE: u64 = 3;

/// Recovered stores that are not recovered again are written to only now and then, which takes time.
const PROBE_EVERY: u64 = 5;

/// How thorough a sweep is.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Random images of each kind at each point.
    pub(crate) images: u64,
    /// One image out of this many is recovered under crashes, too; none where it is 0.
    pub(crate) deeper_every: u64,
    /// Only this point, to look at one failure.
    pub(crate) only: Option<usize>,
}

/// What a sweep has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    /// Moments at which the power went.
    pub(crate) points: u64,
    /// Images that were opened and compared.
    pub(crate) images: u64,
    /// The same of crashes during recovery.
    pub(crate) deeper_points: u64,
    pub(crate) deeper_images: u64,
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
    let mut report = Report::default();
    let (mut acknowledged, mut begun) = (0, 0);
    let mut points = Points::new(recording);
    while let Some((moment, keeps)) = points.next(plan.images) {
        if let Moment::Mark(mark) = moment {
            let index = (mark / 2) as usize;
            if mark % 2 == 1 { acknowledged = index } else { begun = index }
        }
        if plan.only.is_some_and(|only| only != points.point) {
            continue;
        }
        report.points += u64::from(!matches!(moment, Moment::Mark(_)));
        for keep in keeps {
            let expected = Expected { commits: acknowledged..=begun, probe: Some(false) };
            let image = points.replay.image(keep);
            report.images += 1;
            let is_deeper = plan.deeper_every > 0 && report.images.is_multiple_of(plan.deeper_every);
            let is_probed = is_deeper || report.images.is_multiple_of(PROBE_EVERY);
            let outcome =
                recover(image, world, &expected, is_probed).map_err(|what| (what, None)).and_then(|found| {
                    match is_deeper {
                        true => deeper(&found, world, &expected, plan.images, &mut report),
                        false => Ok(()),
                    }
                });
            if let Err((what, deeper)) = outcome {
                return Err(Box::new(Broken { point: points.point, keep, deeper, what, report }));
            }
        }
    }
    Ok(report)
}

/// Lets the power go at every point of a recovery.
fn deeper(
    recovery: &Recovery,
    world: &World,
    expected: &Expected,
    images: u64,
    report: &mut Report,
) -> Result<(), (String, Option<(usize, Keep)>)> {
    let mut expected = expected.clone();
    let mut points = Points::new(&recovery.recording);
    while let Some((moment, keeps)) = points.next(images) {
        match moment {
            // What a reader has seen stays.
            Moment::Mark(OPENED) => expected.commits = recovery.last..=recovery.last,
            Moment::Mark(PROBE_BEGUN) => expected.probe = None,
            Moment::Mark(PROBE_DONE) => expected.probe = Some(true),
            _ => report.deeper_points += 1,
        }
        for keep in keeps {
            report.deeper_images += 1;
            let is_probed = expected.probe == Some(false) && report.deeper_images.is_multiple_of(PROBE_EVERY);
            let outcome = recover(points.replay.image(keep), world, &expected, is_probed);
            outcome.map_err(|what| (what, Some((points.point, keep))))?;
        }
    }
    Ok(())
}

/// What happened when a store was opened on an image.
struct Recovery {
    recording: Recording,
    last: usize,
}

/// Opens a store on an image, compares it with the world, and where `is_probed` sees that it still works.
fn recover(image: Image, world: &World, expected: &Expected, is_probed: bool) -> Verdict<Recovery> {
    let medium = Medium::with_image(image, MEDIUM_BYTES);
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(reopen(&medium, world, expected, is_probed))));
    let last = outcome.unwrap_or_else(|_| Err("a panic".to_owned()))?;
    Ok(Recovery { recording: medium.recording(), last })
}

async fn reopen(medium: &Medium, world: &World, expected: &Expected, is_probed: bool) -> Verdict<usize> {
    // Looking through the records file takes as long as all the rest.
    let mut options = options();
    options.check_bytes = if is_probed { 16 << 20 } else { 0 };
    let store = DiskStore::open_with(medium.files(), medium.records(), options);
    let store = store.map_err(|error| format!("not opened: {error:?}"))?;
    medium.mark(OPENED);
    let last = check(&store, world, expected).await?;
    if is_probed {
        medium.mark(PROBE_BEGUN);
        write_probe(&store).await?;
        medium.mark(PROBE_DONE);
    }
    store.close().await.map_err(|error| format!("not closed: {error:?}"))?;
    Ok(last)
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
