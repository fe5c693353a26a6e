//! Bugs planted on purpose, to show that the simulator and the crash harness find such bugs.
//!
//! Without the feature `planted` [`is_active`] is the constant `false`, and the compiler drops what stands behind it.
//! With it one program can switch each bug on in turn: the plants are in the code that ships, not in copies of it.

/// One planted bug: what the code then does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Bug {
    /// The disk store acknowledges a commit before its sync.
    AckBeforeSync,
    /// The disk store does not sync its volume file before it commits the records that point into it.
    ForgetVolumeSync,
    /// The disk store does not sync the directory after it made a volume file.
    ForgetDirectorySync,
    /// A store returns a blob without the check of its hash.
    ServeUncheckedBlob,
    /// The disk store goes on after a failed sync.
    GoOnAfterFailedSync,
    /// Compaction removes the old volume file before the new places are committed.
    CompactBeforeCommit,
    /// A put reports success when only `k` holders have acknowledged.
    CountDataAcksAsEnough,
    /// A read takes a shard without the check of its hash.
    SkipShardHash,
    /// A segment opens whether or not it is sealed as the last.
    SkipLastFlag,
    /// Data rebuilt from parity is used without the check against its hash.
    SkipRebuiltCheck,
    /// A holder that did not answer counts as one that says it holds nothing.
    TimeoutIsAbsence,
    /// The sweep of a node takes staged shards of a put that is under way.
    SweepInFlight,
    /// Every segment of an object is sealed with the same nonce.
    ReuseNonce,
    /// Placement follows the order of a hash table.
    HashOrderPlacement,
    /// Puts and gets take memory without asking the byte budget.
    IgnoreBudget,
    /// A cancelled put leaves what it staged.
    DropCleanUp,
    /// An older signed record of a member replaces a newer one.
    AcceptOlderRecord,
    /// A request whose caller has gone keeps its place among those that are answered.
    LeakPlace,
    /// A node forgets what was removed, and takes it back from a late commit.
    ForgetTombstone,
    /// Removing one extent deletes shards that another extent still uses.
    DeleteSharedShard,
    /// A reader hands out the segment before the one that was asked for.
    WrongSegment,
    /// A put reports success when one node has its manifest.
    AcknowledgeOneManifest,
    /// A node answers a commit before its store has made it durable.
    AcknowledgeBeforeCommit,
    /// A committed shard stays among those that are staged.
    KeepStaged,
    /// The disk store commits the steps of one batch in two transactions.
    SplitCommit,
    /// The disk store drops the syncs of its records file.
    ForgetRecordsSync,
    /// An auditor takes the proof of any shard of the extent.
    AcceptAnyProof,
    /// A node forgets a removal before all know of it.
    DropTombstoneSoon,
    /// A shard that fails its check stays where it is and counts as held.
    ScrubKeepsRotten,
    /// The disk store commits the records of a batch without the blobs that were written before it.
    ForgetBlobIndex,
    /// A node that is only suspected counts as gone.
    SuspectIsGone,
    /// Care takes a holder that does not answer for one that holds nothing.
    UnreachableIsAbsent,
    /// Every holder repairs, whoever is first.
    EveryHolderRepairs,
    /// A repair counts as done before the holder has committed.
    RepairedBeforeCommit,
    /// A shard that moved is deleted before its copy is looked at.
    DeleteBeforeVerify,
    /// Shards are moved back and forth between two views of the ranking.
    PingPong,
    /// Repair takes bytes without asking its budget.
    IgnoreRepairBudget,
    /// What a node says to hold counts also when its proofs were wrong.
    BelieveDistrusted,
    /// A node that is told of a wrong shard gives it up without a look at it.
    BelieveAccusers,
}

/// Whether a bug is planted now.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_active(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use switch::{Plant, is_active, plant};

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Bug;

    static ACTIVE: AtomicU64 = AtomicU64::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Whether a bug is planted now.
    #[inline]
    pub fn is_active(bug: Bug) -> bool {
        ACTIVE.load(Ordering::Relaxed) & mask(bug) != 0
    }

    fn mask(bug: Bug) -> u64 {
        1_u64.checked_shl(u32::from(bug as u8)).unwrap_or(0)
    }

    /// Plants one bug in the whole process until the guard is dropped; waits while another is planted.
    #[must_use = "the bug is gone when this is dropped"]
    pub fn plant(bug: Bug) -> Plant {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        ACTIVE.store(mask(bug), Ordering::Relaxed);
        Plant { _turn: turn }
    }

    /// A bug that is planted; see [`plant`].
    #[derive(Debug)]
    pub struct Plant {
        _turn: MutexGuard<'static, ()>,
    }

    impl Drop for Plant {
        fn drop(&mut self) {
            ACTIVE.store(0, Ordering::Relaxed);
        }
    }
}
