//! Nodes stop, lie, stay silent and forget: every operation ends, and no byte is ever wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::lab::{Disk, Fault, Lab, Settings, pairs};
use common::{noise, run, within};
use datamesh::runtime::NativeRuntime;
use datamesh::sim::Role;
use datamesh::{Capability, ErrorKind, Event, Mesh, NodeId, ObjectId, ObjectStream, Receipt};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, join_all};

/// Ten segments and a rest, in one extent.
const LEN: usize = 170_000;

/// An object of several extents: segments of 1 KiB, 64 of them in an extent.
const LONG: usize = 150_000;

/// A put or get with faulty nodes takes no longer than this, a few graces for stragglers among it.
const PROMPT: Duration = Duration::from_secs(10);

async fn put(mesh: &Mesh, bytes: &[u8]) -> Receipt {
    within(PROMPT, mesh.put(bytes).into_future()).await.unwrap()
}

async fn check(mesh: &Mesh, capability: &Capability, bytes: &[u8]) {
    let got = within(PROMPT, mesh.get(capability).into_future()).await.unwrap();
    assert!(got == bytes, "wrong bytes");
}

/// A name that no object has.
fn nothing() -> Capability {
    Capability::read(ObjectId::from_bytes([9; 32]), datamesh::format::ReadKey::from_bytes([1; 32]))
}

#[test]
fn any_two_nodes_stopped_before_and_after() {
    run(async {
        let mut lab = Lab::open().await;
        let bytes = noise(LEN, 1);
        for pair in pairs() {
            let (large, small) = (put(&lab.client, &bytes).await, put(&lab.client, b"small").await);
            lab.stop_all(&pair).await;
            check(&lab.client, &large.capability, &bytes).await;
            check(&lab.client, &small.capability, b"small").await;
            let later = put(&lab.client, &bytes).await;
            assert!(lab.ids(&pair).is_disjoint(&later.holders.keys().copied().collect()), "{pair:?}");
            check(&lab.client, &later.capability, &bytes).await;
            lab.start_all(&pair).await;
            check(&lab.client, &later.capability, &bytes).await;
        }
    });
}

#[test]
fn any_two_nodes_stopped_during_a_put() {
    run(async {
        let settings = Settings { segment_bytes: 1 << 10, memory_bytes: 1 << 20, ..Settings::default() };
        let mut lab = Lab::with(settings).await;
        let bytes = noise(LONG, 2);
        for (number, pair) in pairs().into_iter().enumerate() {
            let at = (LONG * (number + 1) / 17) as u64;
            let (reached, stop) = oneshot::channel();
            let reached = std::sync::Mutex::new(Some(reached));
            let progress = move |progress: datamesh::Progress| {
                if progress.done >= at {
                    drop(reached.lock().unwrap().take());
                }
            };
            let put = lab.client.put(bytes.clone()).progress(progress).into_future();
            let stops = async {
                let _: Result<(), _> = stop.await;
                futures::join!(lab.stop(pair[0]), lab.stop(pair[1]));
            };
            let (receipt, ()) = within(PROMPT, async { futures::join!(put, stops) }).await;
            let receipt = receipt.unwrap();
            check(&lab.client, &receipt.capability, &bytes).await;
            lab.start_all(&pair).await;
            check(&lab.client, &receipt.capability, &bytes).await;
        }
    });
}

#[test]
fn any_two_nodes_stopped_during_a_get() {
    run(async {
        let settings = Settings { segment_bytes: 1 << 10, memory_bytes: 32 << 10, ..Settings::default() };
        let mut lab = Lab::with(settings).await;
        let bytes = noise(LONG, 3);
        let receipt = put(&lab.client, &bytes).await;
        for (number, pair) in pairs().into_iter().enumerate() {
            let mut stream = lab.client.get(&receipt.capability).stream().await.unwrap();
            let mut got = Vec::new();
            let mut stopped = false;
            while let Some(chunk) = within(PROMPT, stream.next()).await {
                got.extend_from_slice(&chunk.unwrap());
                if !stopped && got.len() > LONG * number / 16 {
                    lab.stop_all(&pair).await;
                    stopped = true;
                }
            }
            assert!(got == bytes, "wrong bytes with {pair:?} stopped");
            lab.start_all(&pair).await;
        }
    });
}

#[test]
fn three_stopped_nodes_are_named() {
    run(async {
        let lab = Lab::open().await;
        let bytes = noise(LEN, 4);
        let receipt = put(&lab.client, &bytes).await;
        // Two keepers of the manifest stay, so that the failure is that of the shards.
        let gone: Vec<usize> = (0..6)
            .filter(|number| !receipt.manifest_holders[..2].contains(&lab.sites[*number].id))
            .take(3)
            .collect();
        lab.stop_all(&gone).await;
        let error = within(PROMPT, lab.client.get(&receipt.capability).into_future()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!((error.have(), error.need()), (Some(3), Some(4)), "{error}");
        assert_eq!(error.missing().iter().copied().collect::<BTreeSet<_>>(), lab.ids(&gone), "{error}");
        assert_eq!(error.operation(), Some("get"));
        assert!(error.is_retryable());

        let asked = within(PROMPT, lab.client.put(bytes.clone()).margin(2).into_future()).await.unwrap_err();
        assert_eq!(asked.kind(), ErrorKind::NotStored, "{asked}");
        assert_eq!((asked.have(), asked.need()), (Some(1), Some(2)), "{asked}");
        let best = put(&lab.client, &bytes).await;
        assert_eq!(best.margin, 1);
        check(&lab.client, &best.capability, &bytes).await;
    });
}

#[test]
fn all_nodes_stopped() {
    run(async {
        let lab = Lab::open().await;
        let receipt = put(&lab.client, &noise(LEN, 5)).await;
        lab.stop_all(&[0, 1, 2, 3, 4, 5]).await;
        let got = within(PROMPT, lab.client.get(&receipt.capability).into_future()).await.unwrap_err();
        assert_eq!((got.kind(), got.missing().len()), (ErrorKind::Unavailable, 6), "{got}");
        for source in [noise(LEN, 6), noise(10, 6)] {
            let put = within(PROMPT, lab.client.put(source).into_future()).await.unwrap_err();
            assert_eq!(put.kind(), ErrorKind::NotStored, "{put}");
        }
    });
}

/// What came of a verb, whatever it gives.
fn outcome<V, T: Send + 'static>(verb: V) -> BoxFuture<'static, datamesh::Result<()>>
where
    V: IntoFuture<Output = datamesh::Result<T>, IntoFuture: Send + 'static>,
{
    let verb = verb.into_future();
    Box::pin(async move { verb.await.map(drop) })
}

#[test]
fn a_deadline_ends_what_silent_nodes_hold_up() {
    run(async {
        let (lab, home) = (Lab::open().await, tempfile::tempdir().unwrap());
        let (mesh, bytes) = (&lab.client, noise(LEN, 7));
        let own = &put(mesh, &bytes).await.capability;
        for site in &lab.sites {
            site.dial.set(Fault::Silent);
        }
        let limit = Duration::from_millis(300);
        let get = || mesh.get(own).deadline(limit);
        let verbs = [
            ("get", outcome(get())),
            ("get", outcome(get().reader())),
            ("get", outcome(get().stream())),
            ("get", outcome(get().to_path(home.path().join("new")))),
            ("put", outcome(mesh.put(noise(LEN, 8)).deadline(limit))),
            ("put", outcome(mesh.put("small").deadline(limit))),
            ("stat", outcome(mesh.stat(own).deadline(limit))),
            ("remove", outcome(mesh.remove(own).deadline(limit))),
            ("health", outcome(mesh.health(own).deadline(limit))),
            ("explain", outcome(mesh.explain(own).deadline(limit))),
            ("repair", outcome(mesh.repair(own).deadline(limit))),
            ("drain", outcome(lab.sites[5].mesh.drain().deadline(limit))),
        ];
        let runtime = NativeRuntime::shared().unwrap();
        // Sooner than any of the steps that they take would give up.
        let ended = verbs.map(|(verb, outcome)| {
            let outcome = runtime.timeout(PROMPT / 2, outcome);
            async move { (verb, outcome.await) }
        });
        for (verb, outcome) in join_all(ended).await {
            let error = outcome.unwrap_or_else(|_| panic!("{verb} hangs")).expect_err(verb);
            assert_eq!((error.kind(), error.operation()), (ErrorKind::TimedOut, Some(verb)), "{error}");
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "something is left behind");
    });
}

/// Those whom a verb is asked of, and what for.
struct Asked {
    client: Mesh,
    node: Mesh,
    other: NodeId,
    own: Capability,
    /// What was opened before the others fell silent.
    stream: ObjectStream,
}

/// A verb without a deadline: what it comes to while all others are silent, and after how many seconds at most.
type Verb = (&'static str, ErrorKind, u64, fn(Asked) -> BoxFuture<'static, datamesh::Result<()>>);

const VERBS: [Verb; 16] = [
    ("get", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.get(asked.own))),
    ("get", ErrorKind::Unavailable, 60, |asked| {
        let mut stream = asked.stream;
        Box::pin(async move { stream.next().await.transpose().map(drop) })
    }),
    ("put", ErrorKind::NotStored, 60, |asked| outcome(asked.client.put(noise(LEN, 8)))),
    // Three are to take the manifest, then the three others, and then all are to give it up again.
    ("put", ErrorKind::OutcomeUnknown, 130, |asked| outcome(asked.client.put("small"))),
    ("stat", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.stat(asked.own))),
    ("remove", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.remove(asked.own))),
    ("health", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.health(asked.own))),
    ("explain", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.explain(asked.own))),
    ("repair", ErrorKind::Unavailable, 12, |asked| outcome(asked.client.repair(asked.own))),
    ("drain", ErrorKind::TimedOut, 60, |asked| outcome(asked.node.drain().deadline(Duration::from_secs(60)))),
    ("wait for nodes", ErrorKind::TimedOut, 10, |asked| {
        Box::pin(async move { asked.client.wait_for_nodes(7, Duration::from_secs(10)).await })
    }),
    ("ping", ErrorKind::TimedOut, 10, |asked| {
        Box::pin(async move { asked.client.ping(asked.other).await.map(drop) })
    }),
    ("ping", ErrorKind::TimedOut, 10, |asked| {
        Box::pin(async move { asked.node.ping(asked.other).await.map(drop) })
    }),
    ("bandwidth", ErrorKind::TimedOut, 40, |asked| {
        Box::pin(async move { asked.client.bandwidth(asked.other, 1 << 20).await.map(drop) })
    }),
    ("forget", ErrorKind::TimedOut, 10, |asked| {
        Box::pin(async move { asked.client.forget(asked.other).await })
    }),
    ("forget", ErrorKind::Busy, 0, |asked| Box::pin(async move { asked.node.forget(asked.other).await })),
];

/// In simulated time, of which there is enough.
#[test]
fn each_verb_has_limits_of_its_own_for_silent_nodes() {
    for (verb, kind, seconds, run) in VERBS {
        let sim = datamesh::sim::mesh(1).nodes(6).open().unwrap();
        let story = async {
            let client = sim.add_client().await?;
            let (client, node) = (sim.mesh(client)?, sim.mesh(0)?);
            client.wait_for_nodes(6, Duration::from_secs(60)).await?;
            let own = client.put(noise(LEN, 7)).await?.capability;
            let stream = client.get(&own).stream().await?;
            for number in 0..6 {
                sim.role(number, Some(Role::Silent));
            }
            let (other, began) = (sim.node_id(1)?, sim.now());
            let outcome = run(Asked { client, node, other, own, stream }).await;
            Ok::<_, datamesh::Error>((outcome, sim.now() - began))
        };
        let (outcome, took) = sim.run(story).unwrap().unwrap();
        let error = outcome.expect_err(verb);
        assert_eq!((error.kind(), error.operation()), (kind, Some(verb)), "after {took:?}: {error}");
        // The network's own delays are among it.
        assert!(took <= Duration::from_secs(seconds + 1), "{verb}: {took:?}");
    }
}

#[test]
fn the_mesh_key_is_changed_in_time_while_the_members_are_silent() {
    run(async {
        let (lab, overlap) = (Lab::open().await, Duration::from_secs(3600));
        for site in &lab.sites {
            site.dial.set(Fault::Silent);
        }
        let changes = [&lab.client, &lab.sites[0].mesh].map(|mesh| mesh.rotate_key(overlap));
        for changed in within(2 * PROMPT, join_all(changes)).await {
            let error = changed.unwrap_err();
            let expected = (ErrorKind::OutcomeUnknown, Some("rotate key"));
            assert_eq!((error.kind(), error.operation()), expected, "{error}");
        }
    });
}

#[test]
fn not_found_is_not_unavailable() {
    run(async {
        let lab = Lab::open().await;
        let error = within(PROMPT, lab.client.get(nothing()).into_future()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.is_retryable());
        lab.stop(4).await;
        let error = within(PROMPT, lab.client.get(nothing()).into_future()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(error.missing(), [lab.sites[4].id]);
    });
}

/// The nodes that events so far accuse of wrong shards or manifests.
fn accused(events: &mut datamesh::Events) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    while let Some(Some(event)) = futures::FutureExt::now_or_never(events.next()) {
        if let Event::WrongShard { node, .. } | Event::WrongManifest { node, .. } = event {
            nodes.insert(node);
        }
    }
    nodes
}

#[test]
fn two_liars_change_nothing_but_the_events() {
    run(async {
        let lab = Lab::open().await;
        let bytes = noise(LEN, 9);
        let receipt = put(&lab.client, &bytes).await;
        for fault in [Fault::FlipsBits, Fault::Truncates, Fault::Swaps, Fault::OtherShard] {
            // Holders of data shards are asked first, so at least these lies are met.
            for pair in [[0, 1], [2, 3], [4, 5]] {
                let mut events = lab.client.events();
                pair.iter().for_each(|number| lab.sites[*number].dial.set(fault));
                let before: usize = pair.iter().map(|number| lab.sites[*number].dial.distorted()).sum();
                check(&lab.client, &receipt.capability, &bytes).await;
                let lies: usize = pair.iter().map(|number| lab.sites[*number].dial.distorted()).sum();
                let accused = accused(&mut events);
                assert!(
                    accused.is_subset(&lab.ids(&pair)),
                    "{fault:?} by {pair:?}: an honest node is accused"
                );
                assert_eq!(lies > before, !accused.is_empty(), "{fault:?} by {pair:?}: {accused:?}");
                pair.iter().for_each(|number| lab.sites[*number].dial.set(Fault::Honest));
            }
        }
        assert!(lab.client.metrics().wrong_answers > 0);
    });
}

#[test]
fn a_put_goes_on_with_two_nodes_that_lie_or_stay_silent() {
    let faults =
        [Fault::FlipsBits, Fault::OtherShard, Fault::Silent, Fault::Late, Fault::AcknowledgesAndDrops];
    for fault in faults {
        run(async {
            let lab = Lab::open().await;
            let bytes = noise(LEN, 10);
            let earlier = put(&lab.client, &bytes).await;
            lab.sites[1].dial.set(fault);
            lab.sites[4].dial.set(fault);
            check(&lab.client, &earlier.capability, &bytes).await;
            for source in [&bytes[..], b"small"] {
                let receipt = put(&lab.client, source).await;
                check(&lab.client, &receipt.capability, source).await;
                let other = lab.another_client(0).await;
                check(&other, &receipt.capability, source).await;
                other.shutdown().await.unwrap();
            }
        });
    }
}

#[test]
fn two_bad_disks_change_nothing() {
    let disks = [
        Disk::FlipsBits,
        Disk::Corrupt,
        Disk::DropsBlobs,
        Disk::HangsOnReads,
        Disk::HangsOnWrites,
        Disk::Full,
    ];
    for disk in disks {
        run(async {
            let lab = Lab::open().await;
            let bytes = noise(LEN, 11);
            let earlier = put(&lab.client, &bytes).await;
            lab.sites[2].store.set(disk);
            lab.sites[3].store.set(disk);
            check(&lab.client, &earlier.capability, &bytes).await;
            let receipt = put(&lab.client, &bytes).await;
            check(&lab.client, &receipt.capability, &bytes).await;
            let holders: BTreeSet<NodeId> = receipt.holders.keys().copied().collect();
            if matches!(disk, Disk::DropsBlobs | Disk::HangsOnWrites | Disk::Full) {
                assert!(holders.is_disjoint(&lab.ids(&[2, 3])), "{disk:?} is counted as a holder");
            }
        });
    }
}

/// The node goes on reading for others; whoever runs it learns once that it is to be opened anew.
#[test]
fn a_store_that_takes_no_more_writes_is_told_of_once() {
    run(async {
        let lab = Lab::open().await;
        let mesh = &lab.sites[2].mesh;
        let (mut own, mut elsewhere) = (mesh.events(), lab.client.events());
        let bytes = noise(LEN, 11);
        let earlier = put(&lab.client, &bytes).await;
        lab.sites[2].store.set(Disk::Failed);
        for _ in 0..3 {
            assert_eq!(mesh.compact().await.err().map(|error| error.kind()), Some(ErrorKind::Poisoned));
            let receipt = put(&lab.client, &bytes).await;
            check(&lab.client, &receipt.capability, &bytes).await;
        }
        check(&lab.client, &earlier.capability, &bytes).await;
        let told = |events: &mut datamesh::Events| {
            let mut told = Vec::new();
            while let Some(Some(event)) = futures::FutureExt::now_or_never(events.next()) {
                if let Event::StoreFailed(why) = event {
                    told.push(why);
                }
            }
            told
        };
        let why = told(&mut own);
        assert!(matches!(why.as_slice(), [why] if why.contains("a sync failed in this test")), "{why:?}");
        assert_eq!((mesh.metrics().store_failures, lab.client.metrics().store_failures), (1, 0));
        assert!(told(&mut elsewhere).is_empty());
    });
}

#[test]
fn a_corrupt_disk_says_so_and_is_not_accused_of_lying() {
    run(async {
        let lab = Lab::open().await;
        let bytes = noise(LEN, 12);
        let receipt = put(&lab.client, &bytes).await;
        let mut seen = BTreeSet::new();
        for number in 0..6 {
            let mut own = lab.sites[number].mesh.events();
            let mut events = lab.client.events();
            lab.sites[number].store.set(Disk::Corrupt);
            check(&lab.client, &receipt.capability, &bytes).await;
            assert_eq!(accused(&mut events), BTreeSet::new());
            while let Some(Some(event)) = futures::FutureExt::now_or_never(own.next()) {
                if let Event::CorruptShard(_) = event {
                    seen.insert(number);
                }
            }
            lab.sites[number].store.set(Disk::Honest);
            // What was rotten was given up, and comes back by itself before the next disk fails.
            while lab.client.health(&receipt.capability).await.unwrap().margin != Some(2) {}
        }
        assert!(seen.len() >= 4, "the holders that were asked noticed: {seen:?}");
        check(&lab.client, &receipt.capability, &bytes).await;
    });
}

#[test]
fn three_liars_are_an_error_and_never_wrong_bytes() {
    for fault in [Fault::FlipsBits, Fault::Truncates, Fault::OtherShard] {
        run(async {
            let lab = Lab::open().await;
            let bytes = noise(LEN, 13);
            let receipt = put(&lab.client, &bytes).await;
            let liars: Vec<usize> = (0..6)
                .filter(|number| receipt.manifest_holders[0] != lab.sites[*number].id)
                .take(3)
                .collect();
            liars.iter().for_each(|number| lab.sites[*number].dial.set(fault));
            let error = within(PROMPT, lab.client.get(&receipt.capability).into_future()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert_eq!((error.have(), error.need()), (Some(3), Some(4)), "{error}");
            assert_eq!(error.missing().iter().copied().collect::<BTreeSet<_>>(), lab.ids(&liars), "{error}");
        });
    }
}

#[test]
fn holders_that_die_at_the_commit_are_replaced() {
    for dying in [vec![0], vec![1, 5], vec![2, 3]] {
        run(async {
            let lab = Lab::open().await;
            let bytes = noise(LEN, 14);
            dying.iter().for_each(|number| lab.sites[*number].dial.set(Fault::DiesAtCommit));
            let receipt = put(&lab.client, &bytes).await;
            let holders: BTreeSet<NodeId> = receipt.holders.keys().copied().collect();
            assert!(holders.is_disjoint(&lab.ids(&dying)), "a dead node is counted as a holder");
            check(&lab.client, &receipt.capability, &bytes).await;
            let health = within(PROMPT, lab.client.health(&receipt.capability).into_future()).await.unwrap();
            assert_eq!(health.margin, Some(receipt.margin));
        });
    }
}

#[test]
fn nodes_that_join_after_a_put_do_not_hide_it() {
    run(async {
        let mut lab = Lab::open().await;
        let bytes = noise(LEN, 15);
        let mut receipts = Vec::new();
        for _ in 0..4 {
            receipts.push(put(&lab.client, &bytes).await);
            receipts.push(put(&lab.client, b"small").await);
        }
        for _ in 0..6 {
            lab.grow().await;
        }
        let newcomer = lab.another_client(11).await;
        for receipt in &receipts {
            let expected = if receipt.len == 5 { b"small" } else { &bytes[..] };
            for mesh in [&lab.client, &lab.sites[11].mesh, &newcomer] {
                check(mesh, &receipt.capability, expected).await;
            }
        }
        lab.stop_all(&[1, 3]).await;
        for receipt in &receipts {
            let expected = if receipt.len == 5 { b"small" } else { &bytes[..] };
            check(&newcomer, &receipt.capability, expected).await;
        }
    });
}

#[test]
fn everything_is_there_after_all_nodes_were_restarted() {
    run(async {
        let mut lab = Lab::open().await;
        let bytes = noise(LEN, 16);
        let receipt = put(&lab.client, &bytes).await;
        let all = [0, 1, 2, 3, 4, 5];
        lab.stop_all(&all).await;
        lab.start_all(&all).await;
        check(&lab.client, &receipt.capability, &bytes).await;
        check(&lab.sites[3].mesh, &receipt.capability, &bytes).await;
        let removal = lab.client.remove(&receipt.capability).await.unwrap();
        assert_eq!((removal.nodes, removal.unreached.len()), (6, 0));
        let error = lab.client.get(&receipt.capability).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn shards_lost_from_different_segments_are_made_up_for() {
    run(async {
        let lab = Lab::open().await;
        let bytes = noise(LEN, 17);
        let receipt = put(&lab.client, &bytes).await;
        // Every holder loses one shard, each of another segment: each segment still has five.
        let reader = lab.another_client(0).await;
        let manifest_of = |site: &common::lab::Site| site.store.clone();
        let mut lost = 0;
        for (number, site) in lab.sites.iter().enumerate() {
            let store = manifest_of(site);
            let blobs = common::lab::blobs_by_segment(&store).await;
            if let Some(blob) = blobs.get(number) {
                let batch = datamesh::ports::Batch::new().delete_blob(*blob);
                datamesh::ports::Storage::commit(&store, batch).await.unwrap();
                lost += 1;
            }
        }
        assert_eq!(lost, 6);
        check(&reader, &receipt.capability, &bytes).await;
    });
}

#[test]
fn a_small_budget_never_deadlocks_with_mending() {
    run(async {
        let settings = Settings { segment_bytes: 1 << 10, memory_bytes: 1, ..Settings::default() };
        let lab = Lab::with(settings).await;
        let bytes = noise(600_000, 18);
        lab.sites[0].store.set(Disk::DropsBlobs);
        lab.sites[1].dial.set(Fault::DiesAtCommit);
        let receipt = lab.client.put(bytes.clone()).await.unwrap();
        check(&lab.client, &receipt.capability, &bytes).await;
        assert_eq!(lab.client.metrics().budget_in_use, 0);
    });
}
