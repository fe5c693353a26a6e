//! Giving up what others hold.

use super::*;

const BOB: NodeId = NodeId::from_bytes([7; 32]);

fn keep(fixture: &Fixture, layout: &Layout, indexes: &[u8]) -> Possession {
    let request =
        Request::Keep { extents: vec![extent(layout)], indexes: vec![indexes.to_vec()], objects: Vec::new() };
    match block_on(fixture.node.handle(BOB, request, Bytes::new())).0 {
        Reply::Surveyed { possessions } => possessions[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn surveys_tell_what_is_held_absent_and_removed() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    fixture.storage.blobs.lock().unwrap().remove(&ShardId::of(&shards[1]));
    let (object, bytes) = manifest();
    let ask = || Request::Survey { extents: vec![extent(&layout)], objects: vec![object] };
    let said = |fixture: &Fixture| match fixture.reply(ask(), "") {
        Reply::Surveyed { possessions } => possessions,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&fixture), [Possession::Held(vec![0, 2]), Possession::Absent]);
    fixture.reply(Request::PutManifest { operation: OperationId::from_bytes([0; 16]) }, bytes);
    assert_eq!(said(&fixture)[1], Possession::Held(vec![]));
    fixture.reply(Request::RemoveObject { object, secret: secret() }, "");
    assert_eq!(said(&fixture)[1], Possession::Removed);
    let many = vec![object; MAX_SURVEYED + 1];
    let many = fixture.reply(Request::Survey { extents: Vec::new(), objects: many }, "");
    assert_eq!(refusal(many), Refusal::Invalid);
}

#[test]
fn what_is_released_is_gone_and_the_rest_stays() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    let (mut others, _) = sample(50);
    others[0] = shards[0].clone();
    let second = super::layout(&others);
    fixture.store(&layout, &shards);
    fixture.store(&second, &others);
    let id = extent(&layout);
    let leaving = fixture.node.leave(*id.as_bytes(), &[0, 1]).unwrap();
    block_on(fixture.node.release_extent(id, &[0, 1], &leaving)).unwrap();
    assert_eq!(fixture.held(&layout), Some(vec![2]));
    assert_eq!(fixture.held(&second), Some(vec![0, 1, 2]), "another extent uses the first shard too");
    assert!(fixture.has(&shards[0]) && !fixture.has(&shards[1]));
    drop(leaving);
    let leaving = fixture.node.leave(*id.as_bytes(), &[2]).unwrap();
    block_on(fixture.node.release_extent(id, &[2], &leaving)).unwrap();
    assert_eq!(fixture.held(&layout), None, "no record of what nothing is held of");
}

#[test]
fn what_is_not_durable_yet_is_not_counted() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let lost = ShardId::of(&shards[1]);
    let set_aside = || {
        fixture.storage.corrupt.lock().unwrap().push(lost);
        block_on(fixture.node.set_aside(lost)).unwrap();
        fixture.storage.corrupt.lock().unwrap().clear();
        assert_eq!(keep(&fixture, &layout, &[0, 1]), Possession::Held(vec![0]));
    };
    set_aside();
    // Its mend has staged it and not committed.
    fixture.stage(&shards[1]);
    assert_eq!(keep(&fixture, &layout, &[0, 1]), Possession::Held(vec![0, 1]));
    fixture.lose_power();
    assert!(fixture.has(&shards[1]), "what was promised was not durable");
    // Nor what was taken back, and stays for the extent that uses it.
    set_aside();
    fixture.stage(&shards[1]);
    fixture.reply(Request::Unstage { shards: vec![lost] }, "");
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
    fixture.lose_power();
    assert!(fixture.has(&shards[1]), "what was counted was not durable");
    // A store that takes no writes counts what it had before.
    set_aside();
    fixture.stage(&shards[1]);
    fixture.storage.fail_commit.store(true, Ordering::SeqCst);
    assert_eq!(fixture.held(&layout), Some(vec![0, 2]));
}

#[test]
fn who_leaves_promises_nothing_more() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    assert_eq!(keep(&fixture, &layout, &[0]), Possession::Held(vec![0]));
    let until = block_on(fixture.node.take_no_more());
    assert!(until.is_some(), "who was promised something may still act on it");
    assert_eq!(keep(&fixture, &layout, &[0, 1]), Possession::Held(vec![]));
    let unasked = Fixture::new();
    assert_eq!(block_on(unasked.node.take_no_more()), None);
}

#[test]
fn who_leaves_takes_nothing_new() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let (object, known) = manifest();
    let put =
        |bytes| fixture.reply(Request::PutManifest { operation: OperationId::from_bytes([0; 16]) }, bytes);
    assert_eq!(put(known.clone()), Reply::Done);
    let (others, second) = sample(50);
    others.iter().for_each(|shard| assert_eq!(fixture.stage(shard), Reply::Done));
    assert_eq!(fixture.commit(&second, &[0]), Reply::Done);

    block_on(fixture.node.take_no_more());
    assert_eq!(refusal(fixture.stage(&shard(99))), Refusal::Busy);
    // But for what it is to have, and has lost.
    fixture.storage.corrupt.lock().unwrap().push(ShardId::of(&shards[1]));
    block_on(fixture.node.set_aside(ShardId::of(&shards[1]))).unwrap();
    fixture.storage.corrupt.lock().unwrap().clear();
    assert_eq!(fixture.held(&layout), Some(vec![0, 2]));
    assert_eq!(fixture.stage(&shards[1]), Reply::Done);
    assert_eq!(fixture.commit(&layout, &[0, 1, 2]), Reply::Done);
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
    assert_eq!(refusal(fixture.commit(&second, &[0, 1])), Refusal::Busy, "what was staged and not committed");
    assert_eq!(fixture.held(&second), Some(vec![0]));
    assert_eq!(fixture.commit(&second, &[0]), Reply::Done, "a repeated commit is fine");
    assert_eq!(put(known), Reply::Done);
    assert_eq!(fixture.reply(Request::RemoveObject { object, secret: secret() }, ""), Reply::Done);
}

#[test]
fn who_promised_to_keep_does_not_give_up() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let id = *extent(&layout).as_bytes();
    assert_eq!(keep(&fixture, &layout, &[1]), Possession::Held(vec![1]));
    assert!(fixture.node.leave(id, &[0, 1]).is_none());
    assert!(fixture.node.leave(id, &[0]).is_some(), "nothing was promised of it");
    fixture.runtime.seconds.store(3601, Ordering::SeqCst);
    assert!(fixture.node.leave(id, &[0, 1]).is_some(), "the promise is over");
}

#[test]
fn who_is_about_to_give_up_promises_nothing() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let leaving = fixture.node.leave(*extent(&layout).as_bytes(), &[1]).unwrap();
    assert_eq!(keep(&fixture, &layout, &[0, 1, 2]), Possession::Held(vec![0, 2]));
    drop(leaving);
    assert_eq!(keep(&fixture, &layout, &[1]), Possession::Held(vec![1]));
}

#[test]
fn an_old_promise_is_not_acted_on() {
    let fixture = Fixture::new();
    let (shards, layout) = sample(0);
    fixture.store(&layout, &shards);
    let id = extent(&layout);
    let leaving = fixture.node.leave(*id.as_bytes(), &[0]).unwrap();
    fixture.runtime.seconds.store(61, Ordering::SeqCst);
    assert_eq!(block_on(fixture.node.release_extent(id, &[0], &leaving)).unwrap(), 0);
    assert_eq!(fixture.held(&layout), Some(vec![0, 1, 2]));
}

#[test]
fn a_keep_with_lists_that_do_not_fit_is_refused() {
    let request = Request::Keep { extents: Vec::new(), indexes: vec![vec![1]], objects: Vec::new() };
    assert_eq!(Request::decode(&request.encode()).unwrap_err().kind(), ErrorKind::Protocol);
}
