//! Futures are dropped at many points, and meshes are shut down in the middle of things.
#![cfg(feature = "disk")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use common::lab::{Fault, Lab, Settings};
use common::{noise, run, within};
use datamesh::runtime::NativeRuntime;
use datamesh::{Capability, ErrorKind, Mesh, Source};
use futures::StreamExt;
use futures::io::AsyncReadExt;

const PROMPT: Duration = Duration::from_secs(20);

/// Two extents and a rest.
const LEN: usize = 150_000;

fn settings() -> Settings {
    Settings { segment_bytes: 1 << 10, memory_bytes: 1 << 20, ..Settings::default() }
}

/// Drops a future after it was polled so many times; whether it was ready before.
async fn poll_times<F: Future>(work: F, times: usize) -> bool {
    let mut work = pin!(work);
    let mut polled = 0;
    poll_fn(|context| {
        if work.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        polled += 1;
        if polled >= times { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

/// Waits until something holds, which it must soon.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let runtime = NativeRuntime::shared().unwrap();
    let reached = async {
        while !holds().await {
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(runtime.timeout(PROMPT, reached).await.is_ok(), "never: {what}");
}

async fn stored(lab: &Lab) -> usize {
    let mut count = 0;
    for site in &lab.sites {
        count += site.store.blobs().await.len();
    }
    count
}

#[test]
fn dropped_puts_leave_no_memory_and_no_shards() {
    run(async {
        let lab = Lab::with(settings()).await;
        let bytes = noise(LEN, 1);
        for times in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610] {
            let done = poll_times(lab.client.put(bytes.clone()).into_future(), times).await;
            if done {
                break;
            }
            eventually("memory is given back", async || lab.client.metrics().budget_in_use == 0).await;
        }
        eventually("staged shards are taken back", async || {
            // What was put to its end is kept: 147 segments of six shards.
            stored(&lab).await % (LEN.div_ceil(1 << 10) * 6) == 0
        })
        .await;
        let receipt = lab.client.put(bytes.clone()).await.unwrap();
        assert_eq!(receipt.margin, 2);
        assert_eq!(lab.client.get(&receipt.capability).await.unwrap(), bytes);
    });
}

#[test]
fn a_put_dropped_while_holders_are_silent_is_taken_back() {
    run(async {
        let lab = Lab::with(settings()).await;
        lab.sites[2].dial.set(Fault::Silent);
        let limit = Duration::from_millis(200);
        let error = lab.client.put(noise(LEN, 2)).deadline(limit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(lab.client.metrics().budget_in_use, 0);
        lab.sites[2].dial.set(Fault::Honest);
        eventually("staged shards are taken back", async || stored(&lab).await == 0).await;
        assert_eq!(lab.client.metrics().puts_failed, 1);
    });
}

#[test]
fn a_put_whose_source_fails_is_taken_back() {
    run(async {
        let lab = Lab::with(settings()).await;
        let chunks = (0..200).map(|number| match number {
            199 => Err(std::io::Error::other("enough")),
            number => Ok(bytes::Bytes::from(noise(1 << 10, number))),
        });
        let error = lab.client.put(Source::stream(futures::stream::iter(chunks))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceFailed);
        // Extents that were committed before go as well.
        eventually("everything is taken back", async || stored(&lab).await == 0).await;
    });
}

#[test]
fn dropped_gets_leave_no_memory() {
    run(async {
        let lab = Lab::with(settings()).await;
        let bytes = noise(LEN, 3);
        let capability = lab.client.put(bytes.clone()).await.unwrap().capability;
        for times in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377] {
            poll_times(lab.client.get(&capability).into_future(), times).await;
            eventually("memory is given back", async || lab.client.metrics().budget_in_use == 0).await;
            let mut stream = lab.client.get(&capability).stream().await.unwrap();
            poll_times(async { while stream.next().await.is_some() {} }, times).await;
            drop(stream);
            assert_eq!(lab.client.metrics().budget_in_use, 0);
        }
        assert_eq!(lab.client.get(&capability).await.unwrap(), bytes);
    });
}

#[test]
fn a_paused_reader_does_not_stop_others() {
    run(async {
        let lab = Lab::with(Settings { memory_bytes: 16 << 10, ..settings() }).await;
        let bytes = noise(LEN, 4);
        let capability = lab.client.put(bytes.clone()).await.unwrap().capability;
        let mut paused = Vec::new();
        for _ in 0..8 {
            let mut stream = lab.client.get(&capability).stream().await.unwrap();
            assert!(stream.next().await.unwrap().is_ok());
            paused.push(stream);
        }
        let again = within(PROMPT, lab.client.put(bytes.clone()).into_future()).await.unwrap();
        let got = within(PROMPT, lab.client.get(&again.capability).into_future()).await.unwrap();
        assert_eq!(got, bytes);
        // A put that is fed from a paused reader of the same mesh.
        let reader = lab.client.get(&capability).reader().await.unwrap();
        let copy = within(PROMPT, lab.client.put(Source::reader(reader)).into_future()).await.unwrap();
        assert_eq!(copy.len, LEN as u64);
        drop(paused);
        eventually("memory is given back", async || lab.client.metrics().budget_in_use == 0).await;
    });
}

async fn all_closed(mesh: &Mesh, capability: &Capability) {
    let kinds = [
        mesh.put("x").await.unwrap_err().kind(),
        mesh.get(capability).await.unwrap_err().kind(),
        mesh.get(capability).reader().await.unwrap_err().kind(),
        mesh.get(capability).stream().await.unwrap_err().kind(),
        mesh.get(capability).to_path("/nowhere").await.unwrap_err().kind(),
        mesh.stat(capability).await.unwrap_err().kind(),
        mesh.remove(capability).await.unwrap_err().kind(),
        mesh.health(capability).await.unwrap_err().kind(),
        mesh.explain(capability).await.unwrap_err().kind(),
        mesh.wait_for_nodes(99, PROMPT).await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Closed; 10]);
}

#[test]
fn a_shutdown_in_the_middle_gives_closed() {
    run(async {
        for after in [0, 3, 30, 100] {
            let directory = tempfile::tempdir().unwrap();
            let builder = || datamesh::builder().path(directory.path()).segment_bytes(1 << 10);
            let mesh = builder().open().await.unwrap();
            let capability = mesh.put(noise(LEN, 5)).await.unwrap().capability;
            let mut stream = mesh.get(&capability).stream().await.unwrap();
            let mut reader = mesh.get(&capability).reader().await.unwrap();
            let mut first = [0; 10];
            reader.read_exact(&mut first).await.unwrap();
            let (signal, reached) = futures::channel::oneshot::channel();
            let signal = std::sync::Mutex::new(Some(signal));
            let progress = move |progress: datamesh::Progress| {
                if progress.done > after << 10 {
                    drop(signal.lock().unwrap().take());
                }
            };
            let put = mesh.put(noise(400 * LEN, 6)).progress(progress).into_future();
            let end = async {
                let _: Result<(), _> = reached.await;
                mesh.shutdown().await.unwrap();
            };
            let (put, ()) = within(PROMPT, async { futures::join!(put, end) }).await;
            let error = put.unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Closed, Some("put")), "{error:?}");
            let rest = async {
                while let Some(chunk) = stream.next().await {
                    if let Err(error) = chunk {
                        return Some(error.kind());
                    }
                }
                None
            };
            assert_eq!(within(PROMPT, rest).await, Some(ErrorKind::Closed));
            let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
            let inner = error.get_ref().unwrap().downcast_ref::<datamesh::Error>().unwrap();
            assert_eq!(inner.kind(), ErrorKind::Closed);
            all_closed(&mesh, &capability).await;
            mesh.shutdown().await.unwrap();
            let again = builder().open().await.unwrap();
            assert_eq!(again.get(&capability).await.unwrap(), noise(LEN, 5));
            again.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_dropped_shutdown_goes_on() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let mesh = datamesh::open(directory.path()).await.unwrap();
        let capability = mesh.put("kept").await.unwrap().capability;
        poll_times(mesh.shutdown(), 1).await;
        all_closed(&mesh, &capability).await;
        let again = open_soon(directory.path()).await;
        assert_eq!(again.get(&capability).await.unwrap(), "kept");
        again.shutdown().await.unwrap();
    });
}

/// Opens a directory as soon as whoever had it lets go.
async fn open_soon(path: &std::path::Path) -> Mesh {
    let runtime = NativeRuntime::shared().unwrap();
    let opened = async {
        loop {
            match datamesh::open(path).await {
                Ok(mesh) => return mesh,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "{error}"),
            }
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    within(PROMPT, opened).await
}

#[test]
fn a_mesh_whose_last_handle_is_dropped_ends_by_itself() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let mut capability = None;
        for round in 0..3 {
            let mesh = open_soon(directory.path()).await;
            let kept = mesh.put(noise(50_000, round)).await.unwrap().capability;
            if let Some(earlier) = capability.replace(kept) {
                assert_eq!(mesh.get(&earlier).await.unwrap(), noise(50_000, round - 1));
            }
            let clone = mesh.clone();
            drop(mesh);
            assert!(clone.put("still open").await.is_ok());
        }
    });
}

#[test]
fn a_mesh_that_is_dropped_while_it_opens_ends_by_itself() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        for times in 1..12 {
            if poll_times(datamesh::open(directory.path()), times).await {
                continue;
            }
        }
        open_soon(directory.path()).await.shutdown().await.unwrap();
    });
}
