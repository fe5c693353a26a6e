//! What a power cut at any moment of a recording could have left.

use bytes::Bytes;

use super::disk::{Disk, Image, SECTOR};
use super::medium::Failure;

#[derive(Debug, Clone)]
pub(super) enum Event {
    Write {
        inode: usize,
        at: usize,
        bytes: Bytes,
    },
    Resize {
        inode: usize,
        length: usize,
    },
    Sync {
        inode: usize,
    },
    /// A sync that failed: what it should have covered is never made durable.
    Forsake {
        inode: usize,
    },
    Create {
        name: String,
        inode: usize,
    },
    Remove {
        name: String,
    },
    SyncNames,
    ForsakeNames,
    Mark(u64),
}

/// What is left of the changes that no sync covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// The first of them, in the order in which they were made; this seed says how many, and how many sectors of the
    /// next.
    Prefix(u64),
    /// Any of them, and of writes any sectors, as this seed decides; some files do not become longer.
    Subset(u64),
    /// Everything but that files became longer: what was written behind their old end is gone.
    Unextended,
}

/// What happened next in a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A change that is lost in a power cut unless a sync covers it.
    Change,
    /// A sync.
    Sync,
    /// A mark of [`Medium::mark`](super::Medium::mark).
    Mark(u64),
}

/// Everything that was done to a medium, from the image that it began with.
#[derive(Debug, Clone)]
pub struct Recording {
    pub(super) start: Image,
    pub(super) events: Vec<Event>,
}

/// Walks through a recording and keeps apart what is durable and what is not.
#[derive(Debug)]
pub struct Replay<'a> {
    durable: Disk,
    /// Changes that no sync covered, in the order in which they were made.
    unsynced: Vec<&'a Event>,
    rest: std::slice::Iter<'a, Event>,
}

impl Recording {
    /// The number of changes and syncs.
    pub fn points(&self) -> usize {
        self.events.iter().filter(|event| !matches!(event, Event::Mark(_))).count()
    }

    /// The number of changes, syncs and marks: of the steps of a walk.
    pub fn moments(&self) -> usize {
        self.events.len()
    }

    /// A walk from the beginning.
    pub fn replay(&self) -> Replay<'_> {
        Replay { durable: self.start.0.clone(), unsynced: Vec::new(), rest: self.events.iter() }
    }
}

impl<'a> Replay<'a> {
    /// Goes on by one event; `None` at the end.
    pub fn advance(&mut self) -> Option<Moment> {
        let event = self.rest.next()?;
        match event {
            Event::Mark(mark) => return Some(Moment::Mark(*mark)),
            Event::Sync { .. } | Event::SyncNames => {
                let covered: Vec<_> = self.unsynced.extract_if(.., |change| change.is_of(event)).collect();
                covered.into_iter().for_each(|change| change.apply(&mut self.durable));
            }
            Event::Forsake { .. } | Event::ForsakeNames => {
                self.unsynced.retain(|change| !change.is_of(event))
            }
            change => {
                self.unsynced.push(change);
                return Some(Moment::Change);
            }
        }
        Some(Moment::Sync)
    }

    /// How many changes no sync has covered.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Whether one of them makes a file longer.
    pub fn extends(&self) -> bool {
        self.unsynced.iter().any(|change| change.growth(&self.durable) > 0)
    }

    /// What the medium would hold if the power went now.
    pub fn image(&self, keep: Keep) -> Image {
        let mut left = self.durable.clone();
        match keep {
            Keep::None => {}
            Keep::All => self.unsynced.iter().for_each(|change| change.apply(&mut left)),
            Keep::Prefix(seed) => self.keep_prefix(&mut Random::new(seed), &mut left),
            Keep::Subset(seed) => self.keep_subset(&mut Random::new(seed), &mut left),
            Keep::Unextended => {
                let changes = self.unsynced.iter();
                changes.for_each(|change| change.apply_within(self.durable_length(change), &mut left));
            }
        }
        Image(left)
    }

    fn durable_length(&self, change: &Event) -> usize {
        change.inode().map_or(0, |inode| self.durable.length(inode))
    }

    fn keep_prefix(&self, random: &mut Random, left: &mut Disk) {
        let (kept, others) = self.unsynced.split_at(random.below(self.unsynced.len() + 1));
        kept.iter().for_each(|change| change.apply(left));
        if let Some(Event::Write { inode, at, bytes }) = others.first() {
            // The boundary lies where the medium's sectors do, not where the write began.
            let end = (at + random.below(bytes.len() + 1)) / SECTOR * SECTOR;
            if let Some(torn) = bytes.get(..end.saturating_sub(*at)).filter(|torn| !torn.is_empty()) {
                left.inode(*inode).write(*at, torn);
            }
        }
    }

    fn keep_subset(&self, random: &mut Random, left: &mut Disk) {
        let short = random.next();
        for change in &self.unsynced {
            let inode = change.inode().unwrap_or(0);
            // A quarter of the files do not become longer.
            let is_short = short.rotate_left(2 * (inode as u32 % 32)) & 3 == 0;
            let limit = if is_short { self.durable_length(change) } else { usize::MAX };
            match random.below(3) {
                0 => {}
                1 => change.apply_within(limit, left),
                _ => change.sectors(random).iter().for_each(|part| part.apply_within(limit, left)),
            }
        }
    }
}

impl Event {
    fn inode(&self) -> Option<usize> {
        match self {
            Self::Write { inode, .. }
            | Self::Resize { inode, .. }
            | Self::Sync { inode }
            | Self::Forsake { inode } => Some(*inode),
            _ => None,
        }
    }

    /// Whether a sync covers this change.
    fn is_of(&self, sync: &Self) -> bool {
        match self {
            Self::Create { .. } | Self::Remove { .. } => matches!(sync, Self::SyncNames | Self::ForsakeNames),
            change => change.inode().is_some() && change.inode() == sync.inode(),
        }
    }

    pub(super) fn apply(&self, disk: &mut Disk) {
        match self {
            Self::Write { inode, at, bytes } => disk.inode(*inode).write(*at, bytes),
            Self::Resize { inode, length } => disk.inode(*inode).resize(*length),
            Self::Create { name, inode } => {
                disk.inode(*inode);
                disk.names.insert(name.clone(), *inode);
            }
            Self::Remove { name } => drop(disk.names.remove(name)),
            _ => {}
        }
    }

    /// Applies what lies before `limit` in its file.
    fn apply_within(&self, limit: usize, disk: &mut Disk) {
        match self {
            Self::Write { inode, at, bytes } => {
                let known = bytes.len().min(limit.saturating_sub(*at));
                if let Some(known) = bytes.get(..known).filter(|known| !known.is_empty()) {
                    disk.inode(*inode).write(*at, known);
                }
            }
            Self::Resize { length, .. } if *length > limit => {}
            other => other.apply(disk),
        }
    }

    /// Any sectors of a write; what is no write stays whole.
    fn sectors(&self, random: &mut Random) -> Vec<Self> {
        let Self::Write { inode, at, bytes } = self else { return vec![self.clone()] };
        let (mut parts, mut start) = (Vec::new(), 0);
        while start < bytes.len() {
            let end = (start + SECTOR - (at + start) % SECTOR).min(bytes.len());
            if random.below(2) == 0 {
                parts.push(Self::Write { inode: *inode, at: at + start, bytes: bytes.slice(start..end) });
            }
            start = end;
        }
        parts
    }

    /// What is left of an event that fails.
    pub(super) fn failing(self, failure: Failure) -> Option<Self> {
        match (self, failure) {
            (Self::Sync { inode }, _) => Some(Self::Forsake { inode }),
            (Self::SyncNames, _) => Some(Self::ForsakeNames),
            (Self::Write { inode, at, bytes }, Failure::Partial) => {
                Some(Self::Write { inode, at, bytes: bytes.slice(..bytes.len() / 2) })
            }
            _ => None,
        }
    }

    /// The bytes by which a file grows.
    pub(super) fn growth(&self, disk: &Disk) -> u64 {
        let (inode, end) = match self {
            Self::Write { inode, at, bytes } => (*inode, at.saturating_add(bytes.len())),
            Self::Resize { inode, length } => (*inode, *length),
            _ => return 0,
        };
        end.saturating_sub(disk.length(inode)) as u64
    }
}

/// A generator that a seed determines (xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 16) as usize).checked_rem(end).unwrap_or(0)
    }
}
