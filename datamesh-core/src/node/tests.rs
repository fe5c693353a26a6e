//! Tests of the service over a small store in memory.

mod collection;
mod fixture;
mod release;

use std::pin::pin;
use std::sync::atomic::Ordering;

use futures::future::join;

use super::*;
use crate::format::*;
use crate::id::OperationId;
use crate::ports::*;
use fixture::*;

#[test]
fn what_is_staged_and_committed_is_read_and_described() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    assert_eq!(fixture.held(&layout), None);
    fixture.store(&layout, &shards);
    assert_eq!(fixture.node.staged(), (0, 0));
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
    let read = fixture.ask(Request::ReadShard { shard: ShardId::of(&shards[4]) }, "");
    assert_eq!(read, (Reply::Done, shards[4].clone()));
    let read = fixture.ask(Request::ReadLayout { extent: extent(&layout) }, "");
    assert_eq!(read, (Reply::Done, layout.encode()));
    assert_eq!(fixture.reply(Request::ReadShard { shard: ShardId::of(b"?") }, ""), Reply::Absent);
    assert_eq!(fixture.commit(&layout, &[1]), Reply::Done, "a repeated commit is fine");
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
}

#[test]
fn indexes_of_several_commits_add_up() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    for index in [2, 0] {
        assert_eq!(fixture.stage(&shards[index]), Reply::Done);
        assert_eq!(fixture.stage(&shards[3 + index]), Reply::Done);
        assert_eq!(fixture.commit(&layout, &[index as u8]), Reply::Done);
    }
    assert_eq!(fixture.held(&layout), Some(vec![0, 2]));
}

#[test]
fn a_commit_names_the_positions_that_are_missing() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    for position in [0, 2, 3] {
        fixture.stage(&shards[position]);
    }
    assert_eq!(fixture.commit(&layout, &[2, 0, 1]), Reply::Missing { positions: vec![1, 4, 5] });
    assert_eq!(fixture.records(), 0);
    assert_eq!(fixture.commit(&layout, &[0]), Reply::Done);
}

#[test]
fn nothing_is_acknowledged_before_the_commit_returned() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    shards.iter().for_each(|bytes| assert_eq!(fixture.stage(bytes), Reply::Done));

    fixture.storage.fail_commit.store(true, Ordering::SeqCst);
    assert_eq!(refusal(fixture.commit(&layout, &[0])), Refusal::Internal);
    assert_eq!(fixture.node.staged().0, 6, "what failed can be tried again");
    fixture.storage.fail_commit.store(false, Ordering::SeqCst);

    fixture.storage.hold_commit.store(true, Ordering::SeqCst);
    let mut answer = pin!(fixture.node.handle(ALICE, commit_request(&[0]), layout.encode()));
    for _ in 0..100 {
        assert!(poll_once(answer.as_mut()).is_pending());
    }
    fixture.storage.hold_commit.store(false, Ordering::SeqCst);
    assert_eq!(block_on(answer).0, Reply::Done);
}

#[test]
fn bad_requests_change_nothing() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    let lie = Request::Stage { shard: ShardId::of(b"other") };
    assert_eq!(refusal(fixture.reply(lie.clone(), shards[0].clone())), Refusal::Invalid);
    assert_eq!(refusal(fixture.reply(lie.clone(), vec![7; 20 << 10])), Refusal::Invalid);
    assert_eq!(refusal(fixture.reply(lie.clone(), "")), Refusal::Invalid);
    assert_eq!(refusal(fixture.reply(lie, vec![7; MAX_BLOB_LEN + 1])), Refusal::Invalid);
    assert!(fixture.storage.blobs.lock().unwrap().is_empty());

    shards.iter().for_each(|bytes| assert_eq!(fixture.stage(bytes), Reply::Done));
    for indexes in [&[][..], &[3], &[0, 0], &[0, 1, 2, 3], &[255]] {
        assert_eq!(refusal(fixture.commit(&layout, indexes)), Refusal::Invalid, "{indexes:?}");
    }
    let short = Layout { last_shard_len: 0, shard_len: 128, ..layout.clone() };
    assert_eq!(refusal(fixture.commit(&short, &[0])), Refusal::Invalid);
    let longer = Layout { last_shard_len: 128, shard_len: 128, ..layout };
    assert_eq!(refusal(fixture.commit(&longer, &[0])), Refusal::Invalid);
    assert_eq!(refusal(fixture.reply(commit_request(&[0]), "rubbish")), Refusal::Invalid);
    let operation = OperationId::from_bytes([0; 16]);
    assert_eq!(refusal(fixture.reply(Request::PutManifest { operation }, "rubbish")), Refusal::Invalid);
    let members = Request::Members { records: Vec::new() };
    assert_eq!(refusal(fixture.reply(members, "")), Refusal::Invalid);
    assert_eq!(fixture.records(), 0);
}

#[test]
fn staging_is_bounded() {
    let fixture = Fixture::with_staged_bytes(2 * SHARD_LEN as u64);
    assert_eq!(fixture.stage(&shard(1)), Reply::Done);
    assert_eq!(fixture.stage(&shard(2)), Reply::Done);
    assert_eq!(fixture.stage(&shard(2)), Reply::Done, "staged twice, counted once");
    assert_eq!(refusal(fixture.stage(&shard(3))), Refusal::Busy);
    assert!(!fixture.has(&shard(3)));
    fixture.reply(Request::Unstage { shards: vec![ShardId::of(&shard(1))] }, "");
    assert_eq!(fixture.stage(&shard(3)), Reply::Done);
}

/// Whoever stages without end takes no room from those who stage little; what it loses its commit says.
#[test]
fn nobody_keeps_others_from_staging() {
    let (shards, layout) = sample(0);
    let len = shards[0].len() as u64;
    let fixture = Fixture::with_staged_bytes(4 * len);
    for bytes in shards.iter().take(3) {
        assert_eq!(fixture.stage(bytes), Reply::Done);
    }
    let of_bob = |number: usize| {
        let bytes = Bytes::from(vec![number as u8; shards[0].len()]);
        let request = Request::Stage { shard: ShardId::of(&bytes) };
        block_on(fixture.node.handle(BOB, request, bytes)).0
    };
    assert_eq!(of_bob(200), Reply::Done, "the last place");
    assert_eq!(of_bob(201), Reply::Done, "a place of who has three");
    assert_eq!(refusal(of_bob(202)), Refusal::Busy, "now each has two");
    let (kept, lost): (Vec<u16>, Vec<u16>) =
        (0..3).partition(|index| fixture.has(&shards[usize::from(*index)]));
    assert_eq!((kept.len(), lost.len()), (2, 1));
    let missing = lost.into_iter().chain([3, 4, 5]).collect();
    assert_eq!(fixture.commit(&layout, &[0, 1, 2]), Reply::Missing { positions: missing });
}

#[test]
fn who_takes_no_more_makes_no_room() {
    let (shards, _) = sample(0);
    let fixture = Fixture::with_staged_bytes(2 * shards[0].len() as u64);
    assert_eq!((fixture.stage(&shards[0]), fixture.stage(&shards[1])), (Reply::Done, Reply::Done));
    block_on(fixture.node.take_no_more());
    let request = Request::Stage { shard: ShardId::of(&shards[2]) };
    let (reply, _) = block_on(fixture.node.handle(BOB, request, shards[2].clone()));
    assert_eq!(refusal(reply), Refusal::Busy);
    assert!(fixture.has(&shards[0]) && fixture.has(&shards[1]), "it is not for one that is refused to take");
}

#[test]
fn only_the_peer_that_staged_can_unstage() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let (own, used, shared) = (shard(100), shards[0].clone(), shard(101));
    for bytes in [&own, &used, &shared] {
        fixture.stage(bytes);
    }
    let again = Request::Stage { shard: ShardId::of(&shared) };
    block_on(fixture.node.handle(BOB, again, shared.clone()));
    let unstage = |all: &[&Bytes]| Request::Unstage { shards: all.iter().map(|b| ShardId::of(b)).collect() };
    block_on(fixture.node.handle(BOB, unstage(&[&own, &used]), Bytes::new()));
    assert!(fixture.has(&own), "another's");
    assert_eq!(fixture.reply(unstage(&[&own, &used, &shared]), ""), Reply::Done);
    assert!(!fixture.has(&own), "its own");
    assert!(fixture.has(&used), "an extent uses it");
    assert!(fixture.has(&shared), "another peer staged it too");
    block_on(fixture.node.handle(BOB, unstage(&[&used, &shared]), Bytes::new()));
    assert!(!fixture.has(&shared), "nobody wants it any more");
    assert!(fixture.has(&used));
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
}

#[test]
fn manifests_are_kept_and_removed_with_the_secret_only() {
    let fixture = Fixture::new();
    let (object, bytes) = manifest();
    let put = || Request::PutManifest { operation: OperationId::from_bytes([0; 16]) };
    let read = || Request::ReadManifest { object };
    assert_eq!(fixture.reply(read(), ""), Reply::Absent);
    assert_eq!(fixture.reply(Request::RemoveObject { object, secret: wrong_secret() }, ""), Reply::Absent);
    assert_eq!(fixture.reply(read(), ""), Reply::Removed);
    assert_eq!(fixture.reply(put(), bytes.clone()), Reply::Done, "a wrong secret keeps nothing away");
    assert_eq!(fixture.ask(read(), ""), (Reply::Done, bytes.clone()));

    let wrong = Request::RemoveObject { object, secret: wrong_secret() };
    assert_eq!(refusal(fixture.reply(wrong, "")), Refusal::Denied);
    assert_eq!(fixture.ask(read(), ""), (Reply::Done, bytes.clone()));

    let right = || Request::RemoveObject { object, secret: secret() };
    assert_eq!(fixture.reply(right(), ""), Reply::Done);
    assert_eq!(fixture.reply(right(), ""), Reply::Removed);
    assert_eq!(fixture.reply(read(), ""), Reply::Removed);
    assert_eq!(fixture.reply(put(), bytes), Reply::Removed, "a late copy does not come back");
}

#[test]
fn what_comes_after_its_removal_stays_away() {
    let fixture = Fixture::new();
    let (object, bytes) = manifest();
    let (shards, layout) = sample(0);
    assert_eq!(fixture.reply(Request::RemoveObject { object, secret: secret() }, ""), Reply::Absent);
    let remove = Request::RemoveExtents { extents: vec![extent(&layout)], secret: secret() };
    assert_eq!(fixture.reply(remove, ""), Reply::Absent);
    let put = Request::PutManifest { operation: OperationId::from_bytes([0; 16]) };
    assert_eq!(fixture.reply(put, bytes), Reply::Removed);
    shards.iter().for_each(|shard| drop(fixture.stage(shard)));
    assert_eq!(fixture.commit(&layout, &[0, 1, 2]), Reply::Removed);
}

#[test]
fn removed_extents_leave_tombstones_and_shared_shards() {
    let fixture = Fixture::new();
    let (shards, first) = sample(0);
    let (mut others, _) = sample(50);
    others[0] = shards[0].clone();
    let second = layout(&others);
    fixture.store(&first, &shards);
    fixture.store(&second, &others);

    let both = vec![extent(&first), extent(&second)];
    let wrong = Request::RemoveExtents { extents: both, secret: wrong_secret() };
    assert_eq!(refusal(fixture.reply(wrong, "")), Refusal::Denied);
    assert_eq!(fixture.held(&first), Some(vec![0, 1, 2]));

    let remove = |layout| Request::RemoveExtents { extents: vec![extent(layout)], secret: secret() };
    assert_eq!(fixture.reply(remove(&first), ""), Reply::Done);
    assert_eq!(fixture.held(&first), None);
    assert_eq!(fixture.held(&second), Some(vec![0, 1, 2]), "the shared shard survived");
    assert!(!fixture.has(&shards[1]));
    assert_eq!(fixture.reply(Request::ReadLayout { extent: extent(&first) }, ""), Reply::Removed);
    assert_eq!(fixture.commit(&first, &[0]), Reply::Removed);
    assert_eq!(fixture.reply(remove(&first), ""), Reply::Removed);

    assert_eq!(fixture.reply(remove(&second), ""), Reply::Done);
    assert!(fixture.storage.blobs.lock().unwrap().is_empty());
    assert_eq!(fixture.records(), 5, "two tombstones, their numbers and the next one");
    let (_, unknown) = sample(90);
    assert_eq!(fixture.reply(remove(&unknown), ""), Reply::Absent);
}

#[test]
fn removal_leaves_what_is_being_staged_again() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    fixture.stage(&shards[2]);
    fixture.reply(Request::RemoveExtents { extents: vec![extent(&layout)], secret: secret() }, "");
    assert!(fixture.has(&shards[2]) && !fixture.has(&shards[1]));
}

#[test]
fn corrupt_shards_are_an_event_and_can_be_refilled() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let shard = ShardId::of(&shards[4]);
    assert_eq!(fixture.reply(Request::Recheck { shard }, ""), Reply::Done);
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));

    fixture.storage.corrupt.lock().unwrap().push(shard);
    let (reply, body) = fixture.ask(Request::ReadShard { shard }, "");
    assert_eq!((refusal(reply), body.len()), (Refusal::Corrupt, 0));
    assert_eq!(fixture.events.lock().unwrap().as_slice(), &[NodeEvent::CorruptShard { shard }]);

    assert_eq!(fixture.reply(Request::Recheck { shard }, ""), Reply::Done);
    assert_eq!(fixture.held(&layout), Some(vec![0, 2]), "index 1 lacks a segment");
    fixture.storage.corrupt.lock().unwrap().clear();
    fixture.store(&layout, &shards);
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
}

#[test]
fn what_a_crash_left_of_a_write_is_no_rot() {
    let fixture = Fixture::new();
    let torn = shard(7);
    let id = ShardId::of(&torn);
    fixture.storage.blobs.lock().unwrap().insert(id, torn);
    fixture.storage.corrupt.lock().unwrap().push(id);
    let (reply, body) = fixture.ask(Request::ReadShard { shard: id }, "");
    assert_eq!((refusal(reply), body.len()), (Refusal::Corrupt, 0));
    assert_eq!(block_on(fixture.node.check_shard(id)).unwrap(), super::scrub::Checked::Rotten);
    block_on(fixture.node.tell_corrupt(id)).unwrap();
    block_on(fixture.node.set_aside(id)).unwrap();
    assert!(!fixture.storage.blobs.lock().unwrap().contains_key(&id), "it is in nobody's way any more");
    assert_eq!(fixture.events.lock().unwrap().as_slice(), &[]);
}

#[test]
fn sweeps_drop_what_is_old_or_orphaned() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    fixture.stage(&shard(100));
    let sweep = || block_on(fixture.node.sweep(fixture.runtime.now())).unwrap();
    fixture.runtime.seconds.store(STAGED_LIFETIME.as_secs() - 1, Ordering::SeqCst);
    fixture.stage(&shard(101));
    assert_eq!(sweep(), 0);
    fixture.runtime.seconds.fetch_add(1, Ordering::SeqCst);
    assert_eq!(sweep(), 1);
    assert!(!fixture.has(&shard(100)) && fixture.has(&shard(101)));

    for seed in 0..=600u16 {
        let orphan = Bytes::copy_from_slice(&seed.to_le_bytes());
        fixture.storage.blobs.lock().unwrap().insert(ShardId::of(&orphan), orphan);
    }
    assert_eq!(block_on(fixture.node.sweep_orphans()).unwrap(), 601);
    assert!(fixture.has(&shard(101)), "staged");
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
}

#[test]
fn a_sweep_waits_for_what_is_in_flight() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    shards.iter().for_each(|bytes| assert_eq!(fixture.stage(bytes), Reply::Done));
    fixture.runtime.seconds.store(2 * STAGED_LIFETIME.as_secs(), Ordering::SeqCst);
    fixture.storage.hold_commit.store(true, Ordering::SeqCst);
    let mut commit = pin!(fixture.node.handle(ALICE, commit_request(&[0, 1, 2]), layout.encode()));
    assert!(poll_once(commit.as_mut()).is_pending());
    let mut sweep = pin!(fixture.node.sweep(fixture.runtime.now()));
    assert!(poll_once(sweep.as_mut()).is_pending());
    fixture.storage.hold_commit.store(false, Ordering::SeqCst);
    let ((reply, _), swept) = block_on(join(commit, sweep));
    assert_eq!((reply, swept.unwrap()), (Reply::Done, 0));
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));

    fixture.storage.hold_write.store(true, Ordering::SeqCst);
    let late = shard(100);
    let request = Request::Stage { shard: ShardId::of(&late) };
    let mut stage = pin!(fixture.node.handle(ALICE, request, late.clone()));
    assert!(poll_once(stage.as_mut()).is_pending());
    let mut sweep = pin!(fixture.node.sweep_orphans());
    assert!(poll_once(sweep.as_mut()).is_pending());
    fixture.storage.hold_write.store(false, Ordering::SeqCst);
    let ((reply, _), swept) = block_on(join(stage, sweep));
    assert_eq!((reply, swept.unwrap()), (Reply::Done, 0));
    assert!(fixture.has(&late));
}
