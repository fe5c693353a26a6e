//! Removals that are told later, and extents that no manifest names.

use std::sync::atomic::Ordering;

use super::fixture::*;
use crate::format::*;
use crate::id::{ExtentId, ObjectId, OperationId, ShardId};
use crate::node::*;
use crate::ports::{CryptoSuite, Table, Timestamp};

fn removals(ids: &[[u8; 32]], secret: RemovalSecret) -> Request {
    let removed = |id: &[u8; 32]| Removed { id: *id, secret: secret.clone() };
    Request::Removals { removals: ids.iter().map(removed).collect() }
}

fn store_of(reply: Reply) -> StoreName {
    match reply {
        Reply::Noted { store } => store,
        other => panic!("{other:?}"),
    }
}

/// A manifest that names the sample extent.
fn manifest_of(layout: &Layout) -> (ObjectId, Bytes) {
    let keys = ReadKey::from_bytes([8; 32]).object_keys();
    let public = ManifestPublic {
        suite: NoCipher.id(),
        code: layout.code,
        redundancy: layout.redundancy,
        segment_len: 1024,
        salt: Salt::from_bytes([1; 32]),
        commitment: *keys.commitment(),
        removal: secret().hash(),
        extents: Extents::Many(vec![extent(layout), ExtentId::from_bytes([9; 32])]),
    };
    let header = Header { len: 65 << 10, ..Header::default() };
    Manifest::seal(public, &header, &keys, &NoCipher).unwrap()
}

fn put(fixture: &Fixture, manifest: &Bytes) -> Reply {
    fixture.reply(Request::PutManifest { operation: OperationId::from_bytes([0; 16]) }, manifest.clone())
}

fn named(fixture: &Fixture, layout: &Layout) -> Reply {
    fixture.reply(Request::Named { extents: vec![extent(layout), ExtentId::from_bytes([1; 32])] }, "")
}

#[test]
fn removals_that_are_told_are_carried_out_and_remembered() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    let (object, manifest) = manifest_of(&layout);
    fixture.store(&layout, &shards);
    assert_eq!(put(&fixture, &manifest), Reply::Done);
    let (late, late_layout) = sample(50);
    let ids = [*extent(&layout).as_bytes(), *object.as_bytes(), *extent(&late_layout).as_bytes()];

    let store = store_of(fixture.reply(removals(&ids, wrong_secret()), ""));
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]), "a wrong secret removes nothing");
    assert_eq!(store_of(fixture.reply(removals(&ids, secret()), "")), store);
    assert_eq!(fixture.held(&layout), None);
    assert_eq!(fixture.reply(Request::ReadManifest { object }, ""), Reply::Removed);
    assert!(shards.iter().all(|shard| !fixture.has(shard)));
    late.iter().for_each(|shard| assert_eq!(fixture.stage(shard), Reply::Done));
    assert_eq!(fixture.commit(&late_layout, &[0]), Reply::Removed, "it comes too late");

    let told = block_on(fixture.node.removals_from(0, 100)).unwrap();
    assert!(ids.iter().all(|id| told.iter().any(|(_, removed)| removed.id == *id)));
    let numbers = told.len();
    store_of(fixture.reply(removals(&ids, secret()), ""));
    assert_eq!(block_on(fixture.node.removals_from(0, 100)).unwrap().len(), numbers, "told twice");
    let next = block_on(fixture.node.next_removal()).unwrap();
    assert!(block_on(fixture.node.removals_from(next, 100)).unwrap().is_empty());
    assert!(block_on(fixture.node.drop_tombstones(told[0].0 + 1)).unwrap() == 1);
    assert!(block_on(fixture.node.drop_tombstones(u64::MAX)).unwrap() > 0);
    assert!(block_on(fixture.node.removals_from(0, 100)).unwrap().is_empty());
    let too_many = removals(&vec![[0; 32]; MAX_REMOVALS + 1], secret());
    assert_eq!(refusal(fixture.reply(too_many, "")), Refusal::Invalid);
}

#[test]
fn a_wrong_removal_does_not_take_the_right_one_with_it() {
    let fixture = Fixture::new();
    let (_, layout) = sample(0);
    let id = *extent(&layout).as_bytes();
    store_of(fixture.reply(removals(&[id], wrong_secret()), ""));
    let next = block_on(fixture.node.next_removal()).unwrap();
    store_of(fixture.reply(removals(&[id], secret()), ""));
    let told = || block_on(fixture.node.removals_from(0, 100)).unwrap();
    assert_eq!(told().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [next], "one is told");
    assert_eq!(block_on(fixture.node.drop_tombstones(next)).unwrap(), 0, "the wrong one was forgotten");
    assert_eq!(told()[0].1.secret.hash(), secret().hash());
    assert_eq!(fixture.commit(&layout, &[0]), Reply::Removed);
}

#[test]
fn many_removals_are_noted_with_few_syncs() {
    let fixture = Fixture::new();
    let secrets = [secret(), wrong_secret()];
    // Two of them are told with another secret as well, which comes last and so counts.
    let ids = (0..300_u16).chain([7, 8]).map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes());
    let told =
        ids.enumerate().map(|(place, id)| Removed { id, secret: secrets[usize::from(place >= 300)].clone() });
    let request = Request::Removals { removals: told.collect() };
    store_of(fixture.reply(removals(&[[9; 32]], secret()), ""));
    let before = fixture.storage.commits.load(Ordering::SeqCst);
    store_of(fixture.reply(request.clone(), ""));
    assert!(fixture.storage.commits.load(Ordering::SeqCst) - before <= 4);
    let noted = block_on(fixture.node.removals_from(0, 1000)).unwrap();
    assert_eq!(noted.len(), 301, "each name once");
    let wrong = noted.iter().filter(|(_, removed)| removed.secret.hash() == wrong_secret().hash());
    assert_eq!(wrong.count(), 2);
}

#[test]
fn many_secrets_of_one_name_are_noted_with_one_sync() {
    let fixture = Fixture::new();
    store_of(fixture.reply(removals(&[[9; 32]], secret()), ""));
    let secrets = (0..MAX_REMOVALS as u16).map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes());
    let told = secrets.map(|secret| Removed { id: [7; 32], secret: RemovalSecret::from_bytes(secret) });
    let told: Vec<Removed> = told.collect();
    let last = told.last().unwrap().secret.hash();
    let before = fixture.storage.commits.load(Ordering::SeqCst);
    store_of(fixture.reply(Request::Removals { removals: told }, ""));
    assert_eq!(fixture.storage.commits.load(Ordering::SeqCst) - before, 1);
    let noted = block_on(fixture.node.removals_from(0, 1000)).unwrap();
    let of_it = noted.iter().filter(|(_, removed)| removed.id == [7; 32]);
    assert_eq!(of_it.map(|(_, removed)| removed.secret.hash()).collect::<Vec<_>>(), [last]);
}

#[test]
fn hours_count_while_a_node_is_up() {
    let fixture = Fixture::new();
    let forbid = |id| drop(fixture.reply(removals(&[[id; 32]], secret()), ""));
    let hour = || block_on(fixture.node.note_hour([3])).unwrap()[0];
    forbid(1);
    assert_eq!([hour(), hour()], [0, 0]);
    forbid(2);
    assert_eq!([hour(), hour(), hour()], [0, 1, 1], "the first is three hours old");
    assert_eq!([hour(), hour()], [2, 2], "and then the second");
}

#[test]
fn two_ages_are_told_by_the_same_hours() {
    let fixture = Fixture::new();
    let forbid = |id| drop(fixture.reply(removals(&[[id; 32]], secret()), ""));
    let hour = || block_on(fixture.node.note_hour([1, 3])).unwrap();
    forbid(1);
    assert_eq!([hour(), hour(), hour()], [[0, 0], [1, 0], [1, 0]]);
    forbid(2);
    assert_eq!([hour(), hour(), hour()], [[1, 1], [2, 1], [2, 1]]);
}

#[test]
fn accounts_are_kept_of_many_and_closed() {
    let fixture = Fixture::new();
    let nodes: Vec<NodeId> = (0..600_u16)
        .map(|n| NodeId::from_bytes([n.to_be_bytes(); 16].concat().try_into().unwrap()))
        .collect();
    block_on(fixture.node.keep_account_of(&nodes)).unwrap();
    block_on(fixture.node.keep_told(nodes[3], RemovalsOf { store: [1; 16], next: 7 })).unwrap();
    let told = block_on(fixture.node.told_nodes()).unwrap();
    assert_eq!((told.len(), told[&nodes[3]].next, told[&nodes[4]].next), (600, 7, 0));
    block_on(fixture.node.close_accounts_of(&nodes[..599])).unwrap();
    assert_eq!(block_on(fixture.node.told_nodes()).unwrap().into_keys().collect::<Vec<_>>(), nodes[599..]);
}

#[test]
fn a_manifest_names_its_extents_while_it_is_here() {
    let fixture = Fixture::new();
    let (_, layout) = sample(0);
    let (object, manifest) = manifest_of(&layout);
    assert_eq!(refusal(named(&fixture, &layout)), Refusal::Busy, "nothing was looked through");
    block_on(fixture.node.index_manifests()).unwrap();
    assert_eq!(named(&fixture, &layout), Reply::Named { named: vec![false, false] });
    assert_eq!(put(&fixture, &manifest), Reply::Done);
    assert_eq!(named(&fixture, &layout), Reply::Named { named: vec![true, false] });
    fixture.reply(Request::RemoveObject { object, secret: secret() }, "");
    assert_eq!(named(&fixture, &layout), Reply::Named { named: vec![false, false] });
}

#[test]
fn manifests_of_an_earlier_release_are_entered() {
    let fixture = Fixture::new();
    let (_, layout) = sample(0);
    let (object, manifest) = manifest_of(&layout);
    let record = StoredManifest { manifest, committed_at: Timestamp(1) };
    let key = (Table::Manifests, Bytes::copy_from_slice(object.as_bytes()));
    fixture.storage.records.lock().unwrap().insert(key, record.encode());
    block_on(fixture.node.index_manifests()).unwrap();
    assert_eq!(named(&fixture, &layout), Reply::Named { named: vec![true, false] });
}

#[test]
fn what_is_collected_leaves_nothing_and_may_come_again() {
    let fixture = Fixture::new();
    let (shards, first) = sample(0);
    let (mut others, _) = sample(50);
    others[0] = shards[0].clone();
    let second = layout(&others);
    fixture.store(&first, &shards);
    fixture.store(&second, &others);
    let unnamed = block_on(fixture.node.unnamed(None, 10)).unwrap();
    assert_eq!(unnamed.len(), 2);
    block_on(fixture.node.note_names(&[(extent(&second), None)])).unwrap();
    assert!(block_on(fixture.node.collect_extent(extent(&first))).unwrap());
    assert_eq!(fixture.held(&first), None);
    assert_eq!(fixture.held(&second), Some(vec![0, 1, 2]), "the shared shard stays");
    assert!(!fixture.has(&shards[1]));
    assert!(block_on(fixture.node.unnamed(None, 10)).unwrap().is_empty());
    assert!(!block_on(fixture.node.collect_extent(extent(&first))).unwrap());
    fixture.store(&first, &shards);
    assert_eq!(fixture.reply(Request::ReadShard { shard: ShardId::of(&shards[1]) }, "").name(), "done");
}
