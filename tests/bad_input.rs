//! What cannot work says why: each cause has its own error kind.
#![cfg(feature = "disk")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::error::Error as _;
use std::fs;
use std::io;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::lab::{FaultyStore, Lab};
use common::{PATIENCE, noise, run};
use datamesh::format::{OwnerSecret, ReadKey, Refusal, Reply, Request, StoredManifest};
use datamesh::ports::{
    Batch, CodeId, CryptoSuite, ErasureCode, Identity, Message, Nonce, Signature, Storage, SuiteId, Table,
    Timestamp, Transport,
};
use datamesh::runtime::NativeRuntime;
use datamesh::store::{DiskOptions, DiskStore, MemoryStore, ReedSolomon};
use datamesh::{
    Capability, ChaChaSuite, ErrorKind, Limits, MemoryNetwork, Mesh, MeshKey, NodeIdentity, ObjectId,
    Redundancy, ShardId, Source, Ticket,
};
use futures::future::{join, join_all};
use futures::io::AsyncRead;

fn kind<T: std::fmt::Debug>(result: datamesh::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn weaker_and_wrong_capabilities() {
    run(async {
        let mesh = datamesh::memory().await.unwrap();
        for bytes in [noise(100, 1), noise(100_000, 1)] {
            let own = mesh.put(bytes.clone()).await.unwrap().capability;
            let read = own.to_read().unwrap();
            let verify = own.to_verify();
            assert_eq!(kind(mesh.get(&verify).await), ErrorKind::AccessDenied);
            assert_eq!(kind(mesh.stat(&verify).await), ErrorKind::AccessDenied);
            assert_eq!(kind(verify.to_read()), ErrorKind::AccessDenied);
            assert_eq!(kind(mesh.remove(&read).await), ErrorKind::AccessDenied);
            assert_eq!(kind(mesh.remove(&verify).await), ErrorKind::AccessDenied);
            let wrong_key = Capability::read(own.object(), ReadKey::from_bytes([3; 32]));
            assert_eq!(kind(mesh.get(&wrong_key).await), ErrorKind::AccessDenied);
            let wrong_owner = Capability::own(own.object(), OwnerSecret::from_bytes([3; 32]));
            assert_eq!(kind(mesh.remove(&wrong_owner).await), ErrorKind::AccessDenied);
            assert_eq!(mesh.get(&read).await.unwrap(), bytes);
            assert!(mesh.health(&verify).await.unwrap().is_full());
        }
    });
}

#[test]
fn texts_that_are_no_capability_or_ticket() {
    run(async {
        let mesh = datamesh::memory().await.unwrap();
        let own = mesh.put("x").await.unwrap().capability;
        let mut text = own.to_text().to_string();
        assert!(text.parse::<Capability>().unwrap() == own);
        let last = if text.pop() == Some('a') { 'b' } else { 'a' };
        text.push(last);
        assert_eq!(kind(text.parse::<Capability>()), ErrorKind::InvalidInput);
        for text in ["", "hello", "dm1", "\u{1F980}"] {
            assert_eq!(kind(text.parse::<Capability>()), ErrorKind::InvalidInput, "{text}");
            assert_eq!(kind(text.parse::<Ticket>()), ErrorKind::InvalidInput, "{text}");
        }
        let mut later = own.to_bytes().to_vec();
        later[0] = 9;
        assert_eq!(kind(Capability::from_bytes(&later)), ErrorKind::Unsupported);
    });
}

/// The built-in code and suite under other numbers, the code for few redundancies.
#[derive(Debug)]
struct Foreign {
    code: u16,
    suite: u16,
}

impl ErasureCode for Foreign {
    fn id(&self) -> CodeId {
        CodeId(self.code)
    }
    fn alignment(&self) -> usize {
        ReedSolomon::new().alignment()
    }
    fn supports(&self, redundancy: Redundancy) -> bool {
        redundancy == Redundancy::default()
    }
    fn encode(
        &self,
        redundancy: Redundancy,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
    ) -> datamesh::Result<()> {
        ReedSolomon::new().encode(redundancy, data, parity)
    }
    fn reconstruct(
        &self,
        redundancy: Redundancy,
        shards: &[Option<&[u8]>],
        restored: &mut [&mut [u8]],
    ) -> datamesh::Result<()> {
        ReedSolomon::new().reconstruct(redundancy, shards, restored)
    }
}

impl CryptoSuite for Foreign {
    fn id(&self) -> SuiteId {
        SuiteId(self.suite)
    }
    fn seal(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
    ) -> datamesh::Result<[u8; 16]> {
        ChaChaSuite.seal(key, nonce, associated_data, buffer)
    }
    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> datamesh::Result<()> {
        ChaChaSuite.open(key, nonce, associated_data, buffer, tag)
    }
    fn verify(&self, node: &datamesh::NodeId, message: &[u8], signature: &Signature) -> bool {
        ChaChaSuite.verify(node, message, signature)
    }
}

async fn foreign(network: &MemoryNetwork, seed: u8, code: u16, suite: u16) -> Mesh {
    let runtime = NativeRuntime::shared().unwrap();
    let identity = NodeIdentity::from_secret([seed; 32]);
    let transport = network.join(identity.node_id(), Arc::clone(&runtime)).unwrap();
    Mesh::builder()
        .runtime(runtime)
        .storage(Arc::new(MemoryStore::new()))
        .erasure_code(Arc::new(Foreign { code, suite }))
        .crypto_suite(Arc::new(Foreign { code, suite }))
        .identity(Arc::new(identity))
        .mesh_key(MeshKey::from_bytes([1; 32]))
        .transport(Arc::new(transport))
        .capacity(1 << 30)
        .open()
        .await
        .unwrap()
}

#[test]
fn unknown_suites_and_codes_are_refused_by_number() {
    run(async {
        for (seed, code, suite, named) in
            [(1, 0x8001, 1, 0x8001), (2, 1, 0x8002, 0x8002), (3, 0x8003, 0x8003, 0x8003)]
        {
            let network = MemoryNetwork::new();
            let there = foreign(&network, seed, code, suite).await;
            let here =
                datamesh::builder().network(&network).join(there.ticket().unwrap()).capacity(0).open().await;
            let here = here.unwrap();
            for len in [10, 100_000] {
                let receipt = there.put(noise(len, 1)).await.unwrap();
                let error = here.get(&receipt.capability).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(error.to_string().contains(&named.to_string()), "{error}");
            }
            let few = Redundancy::new(2, 1).unwrap();
            assert_eq!(kind(there.put("x").redundancy(few).await), ErrorKind::Unsupported);
        }
    });
}

#[test]
fn who_asks_too_often_is_refused_and_others_are_not() {
    run(async {
        let network = MemoryNetwork::new();
        let limits = Limits::default().with_control_rate(1, 5);
        let mesh =
            datamesh::builder().network(&network).capacity(1 << 30).limits(limits).open().await.unwrap();
        let (node, address) = (mesh.node_id(), mesh.ticket().unwrap().addresses[0].clone());
        let ask = async |number: u8| {
            let identity = NodeIdentity::from_secret([number; 32]);
            let caller = network.join(identity.node_id(), NativeRuntime::shared().unwrap()).unwrap();
            caller.connect(address.clone(), Duration::from_secs(30)).await.unwrap();
            let mut passed = Vec::new();
            for _ in 0..100 {
                let message = Message {
                    head: Request::Epoch { number: 0, hash: [0; 32] }.encode(),
                    body: Bytes::new(),
                };
                let answer = caller.call(node, message, Duration::from_secs(30)).await.unwrap();
                match Reply::decode(&answer.head).unwrap() {
                    Reply::Done => passed.push(true),
                    Reply::Failed { refusal: Refusal::Busy, .. } => passed.push(false),
                    other => panic!("{other:?}"),
                }
            }
            passed
        };
        // Five at once and one a second: the first peer uses up what it may ask, and the second has all of its own
        // left.
        let mut refused = 0;
        for number in [7, 8] {
            let passed = ask(number).await;
            assert_eq!(passed[..5], [true; 5], "peer {number}");
            let of_it = passed.iter().filter(|passed| !**passed).count() as u64;
            assert!(of_it >= 1, "peer {number} asked a hundred times at once, and none was refused");
            refused += of_it;
        }
        assert_eq!(mesh.metrics().requests_refused, refused);
        mesh.put("others are served").await.unwrap();
    });
}

/// One below the limit another request is answered; at the limit, and beyond it, it waits until one is done.
#[test]
fn requests_that_are_answered_at_a_time() {
    const MOST: usize = 3;
    run(async {
        let (network, store) = (MemoryNetwork::new(), FaultyStore::new());
        let limits = Limits::default().with_inbound_requests(MOST);
        let builder = datamesh::builder().network(&network).storage(store.clone()).capacity(1 << 30);
        let mesh = builder.limits(limits).open().await.unwrap();
        let runtime = NativeRuntime::shared().unwrap();
        let identity = NodeIdentity::from_secret([7; 32]);
        let caller = network.join(identity.node_id(), Arc::clone(&runtime)).unwrap();
        caller.connect(mesh.ticket().unwrap().addresses[0].clone(), PATIENCE).await.unwrap();
        let ask = |request: Request| {
            let message = Message { head: request.encode(), body: Bytes::new() };
            caller.call(mesh.node_id(), message, PATIENCE)
        };
        for count in [MOST - 1, MOST, MOST + 1] {
            let held = store.hold_reads().await;
            let shards = (0..count).map(|number| ShardId::from_bytes([number as u8; 32]));
            let reads = join_all(shards.map(|shard| ask(Request::ReadShard { shard })));
            let others = async {
                while mesh.metrics().inbound_now < count.min(MOST) as u64 {
                    runtime.sleep(Duration::from_millis(1)).await;
                }
                let another = ask(Request::Epoch { number: 0, hash: [0; 32] });
                if count < MOST {
                    another.await.unwrap();
                } else {
                    // Time enough for what must not happen.
                    let answer = runtime.timeout(Duration::from_millis(100), another).await;
                    assert!(answer.is_err(), "it is answered beside {count} others");
                    assert_eq!(mesh.metrics().inbound_now, MOST as u64);
                }
                drop(held);
            };
            let (answers, ()) = join(reads, others).await;
            assert!(answers.iter().all(Result::is_ok), "{count}: {answers:?}");
            ask(Request::Epoch { number: 0, hash: [0; 32] }).await.unwrap();
        }
    });
}

#[test]
fn an_unknown_version_is_refused() {
    run(async {
        let lab = Lab::open().await;
        let receipt = lab.client.put("small").await.unwrap();
        let store = {
            let keeper = receipt.manifest_holders[0];
            lab.sites.iter().find(|site| site.id == keeper).unwrap().store.clone()
        };
        let key = Bytes::copy_from_slice(receipt.object.as_bytes());
        let record = store.read_record(Table::Manifests, key).await.unwrap().unwrap();
        let mut manifest = StoredManifest::decode(&record).unwrap().manifest.to_vec();
        assert_eq!(manifest[1..3], [0, 1], "a map that begins with the version");
        manifest[2] = 2;
        let later = ObjectId::of(&manifest);
        let record = StoredManifest { manifest: manifest.into(), committed_at: Timestamp(1) };
        let batch = Batch::new().put(Table::Manifests, later.as_bytes().to_vec(), record.encode());
        store.commit(batch).await.unwrap();
        let capability = Capability::read(later, receipt.capability.read_key().unwrap());
        let error = lab.client.get(&capability).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

/// The shortest and the longest segments there may be, in objects that end with a segment and beside it.
#[test]
fn lengths_of_segments() {
    run(async {
        let open = |bytes| datamesh::builder().segment_bytes(bytes).capacity(1 << 30).open();
        for bytes in [0, (1 << 10) - 1, (4 << 20) + 1, u32::MAX] {
            assert_eq!(kind(open(bytes).await), ErrorKind::InvalidInput, "{bytes}");
        }
        for bytes in [1 << 10, (1 << 10) + 1, (4 << 20) - 1, 4 << 20] {
            let mesh = open(bytes).await.unwrap();
            // More than what lies in the manifest itself.
            let whole = (bytes * ((16 << 10) / bytes + 1)) as usize;
            // With a single shard the longest blobs that there are.
            for redundancy in [Redundancy::default(), Redundancy::new(1, 0).unwrap()] {
                for len in [whole - 1, whole, whole + 1] {
                    let content = noise(len, 1);
                    let receipt = mesh.put(content.clone()).redundancy(redundancy).await.unwrap();
                    let got = mesh.get(&receipt.capability).await.unwrap();
                    assert!(got == content, "{len} bytes in segments of {bytes} with {redundancy}");
                }
            }
        }
    });
}

#[test]
fn a_full_disk() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let mut options = DiskOptions::default();
        options.capacity_bytes = Some(6 << 20);
        options.volume_bytes = 1 << 20;
        let store = DiskStore::open(directory.path(), options).unwrap();
        let mesh = datamesh::builder().storage(store).capacity(1 << 30).open().await.unwrap();
        let kept = mesh.put(noise(100_000, 1)).await.unwrap().capability;
        let error = mesh.put(noise(20 << 20, 2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
        assert!(!error.is_retryable());
        assert_eq!(mesh.get(&kept).await.unwrap(), noise(100_000, 1));
        mesh.shutdown().await.unwrap();
    });
}

#[test]
fn a_directory_that_cannot_be_written() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "not a directory").unwrap();
        let error = datamesh::open(file.join("below")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.operation(), Some("open"));
        assert!(error.source().is_some());

        let sealed = directory.path().join("sealed");
        fs::create_dir(&sealed).unwrap();
        let mut permissions = fs::metadata(&sealed).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&sealed, permissions).unwrap();
        // Whoever may do everything is not stopped by permissions; others are.
        if fs::write(sealed.join("probe"), "").is_err() {
            assert_eq!(kind(datamesh::open(&sealed).await), ErrorKind::AccessDenied);
        }
    });
}

#[test]
fn a_directory_that_is_open_elsewhere() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let first = datamesh::open(directory.path()).await.unwrap();
        assert_eq!(kind(datamesh::open(directory.path()).await), ErrorKind::Locked);
        let kept = first.put("still here").await.unwrap().capability;
        first.shutdown().await.unwrap();
        let second = datamesh::open(directory.path()).await.unwrap();
        assert_eq!(second.get(&kept).await.unwrap(), "still here");
        assert_eq!(second.node_id(), first.node_id());
        second.shutdown().await.unwrap();
    });
}

#[test]
fn a_directory_of_another_mesh() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let first = datamesh::open(directory.path()).await.unwrap();
        first.shutdown().await.unwrap();
        let other = MeshKey::from_bytes([7; 32]);
        let wrong = datamesh::builder().path(directory.path()).mesh_key(other.clone()).open().await;
        assert_eq!(kind(wrong), ErrorKind::AccessDenied);
        let ticket = Ticket::new(other, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        let network = MemoryNetwork::new();
        let builder = || datamesh::builder().path(directory.path()).network(&network);
        assert_eq!(kind(builder().join(ticket).open().await), ErrorKind::AccessDenied);
    });
}

#[test]
fn a_file_that_shrinks_while_it_is_put() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, noise(2 << 20, 1)).unwrap();
        let limits = Limits::default().with_memory_bytes(1);
        let builder = datamesh::builder().segment_bytes(16 << 10).limits(limits).capacity(1 << 30);
        let mesh = builder.open().await.unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let shrink = move |_| file.set_len(20_000).unwrap();
        let error = mesh.put(path.as_path()).progress(shrink).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
        for (given, said) in [(10_usize, 11_u64), (11, 10), (100_000, 99_999), (99_999, 100_000)] {
            let reader = futures::io::Cursor::new(noise(given, 2));
            let put = mesh.put(Source::sized_reader(reader, said)).await;
            assert_eq!(kind(put), ErrorKind::SourceChanged, "{given} of {said}");
        }
        assert_eq!(mesh.metrics().budget_in_use, 0);
    });
}

#[derive(Debug, PartialEq)]
struct OutOfTape(u32);

impl std::fmt::Display for OutOfTape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "out of tape {}", self.0)
    }
}

impl std::error::Error for OutOfTape {}

/// Gives some bytes and then an error.
struct Failing {
    left: usize,
}

impl AsyncRead for Failing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(OutOfTape(7))));
        }
        let count = buffer.len().min(self.left);
        self.left -= count;
        Poll::Ready(Ok(count))
    }
}

#[test]
fn a_source_that_fails_gives_its_own_error_back() {
    run(async {
        let mesh = datamesh::memory().await.unwrap();
        for left in [0, 1, 20_000, 3_000_000, 1 << 20] {
            let error = mesh.put(Source::reader(Failing { left })).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceFailed, "{error}");
            let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
            let inner = source.get_ref().unwrap().downcast_ref::<OutOfTape>();
            assert_eq!(inner, Some(&OutOfTape(7)));
        }
        let items = [Ok(Bytes::from_static(b"some")), Err(OutOfTape(8))];
        let error = mesh.put(Source::stream(futures::stream::iter(items))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceFailed);
        assert_eq!(error.source().unwrap().downcast_ref::<OutOfTape>(), Some(&OutOfTape(8)));
        assert_eq!(mesh.metrics().budget_in_use, 0);
    });
}

#[test]
fn paths_that_do_not_fit() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let mesh = datamesh::memory().await.unwrap();
        assert_eq!(kind(mesh.put(directory.path()).await), ErrorKind::InvalidInput);
        assert_eq!(kind(mesh.put(directory.path().join("none")).await), ErrorKind::Io);
        let kept = mesh.put(noise(100_000, 1)).await.unwrap().capability;
        let taken = directory.path().join("taken");
        fs::write(&taken, "mine").unwrap();
        let error = mesh.get(&kept).to_path(&taken).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(fs::read(&taken).unwrap(), b"mine");
        assert_eq!(kind(mesh.get(&kept).to_path(directory.path().join("no/where")).await), ErrorKind::Io);
        let fresh = directory.path().join("fresh");
        assert_eq!(mesh.get(&kept).to_path(&fresh).await.unwrap(), 100_000);
        assert_eq!(fs::read(&fresh).unwrap(), noise(100_000, 1));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing else is left behind");
    });
}

#[test]
fn ranges() {
    run(async {
        let mesh = datamesh::builder().segment_bytes(1 << 10).capacity(1 << 30).open().await.unwrap();
        for len in [0_u64, 1, 5000, 100_000] {
            let bytes = noise(usize::try_from(len).unwrap(), len);
            let own = mesh.put(bytes.clone()).await.unwrap().capability;
            for start in [0, len / 2, len] {
                assert_eq!(mesh.get(&own).range(start..start).await.unwrap(), "", "{len}");
                let from = usize::try_from(start).unwrap();
                assert_eq!(mesh.get(&own).range(start..).await.unwrap(), bytes[from..], "{len}");
                assert_eq!(mesh.get(&own).range(start..u64::MAX).await.unwrap(), bytes[from..], "{len}");
                assert_eq!(mesh.get(&own).range(..=u64::MAX).await.unwrap(), bytes, "{len}");
            }
            for (start, end) in [(len + 1, len + 2), (len + 1, len + 1), (u64::MAX, u64::MAX)] {
                let error = mesh.get(&own).range(start..end).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                assert_eq!(kind(mesh.get(&own).range(start..end).reader().await), ErrorKind::InvalidInput);
                assert_eq!(kind(mesh.get(&own).range(start..end).stream().await), ErrorKind::InvalidInput);
            }
            let backwards = (Bound::Included(1_u64), Bound::Excluded(0_u64));
            assert_eq!(kind(mesh.get(&own).range(backwards).await), ErrorKind::InvalidInput);
        }
    });
}

/// Notes that it was read.
struct Watched(Arc<AtomicBool>);

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(0))
    }
}

#[test]
fn options_that_cannot_be_kept_fail_before_anything_is_read_or_sent() {
    run(async {
        let lab = Lab::open().await;
        let was_read = Arc::new(AtomicBool::new(false));
        let put = || lab.client.put(Source::reader(Watched(Arc::clone(&was_read))));
        assert_eq!(kind(put().metadata("k", "v".repeat(16 << 10)).await), ErrorKind::LimitExceeded);
        assert_eq!(kind(put().media_type("x".repeat(17 << 10)).await), ErrorKind::LimitExceeded);
        let many = (0..1025).fold(put(), |put, number| put.metadata(number.to_string(), ""));
        assert_eq!(kind(many.await), ErrorKind::LimitExceeded);
        assert_eq!(kind(put().margin(3).await), ErrorKind::InvalidInput);
        assert!(!was_read.load(Ordering::Relaxed));
        for site in &lab.sites {
            assert!(site.store.blobs().await.is_empty());
        }
    });
}

#[test]
fn more_than_get_returns_at_once() {
    run(async {
        let limits = Limits::default().with_get_bytes(1000);
        let mesh = datamesh::builder().limits(limits).capacity(1 << 30).open().await.unwrap();
        let own = mesh.put(noise(1001, 1)).await.unwrap().capability;
        assert_eq!(kind(mesh.get(&own).await), ErrorKind::LimitExceeded);
        assert_eq!(mesh.get(&own).range(1..).await.unwrap().len(), 1000);
    });
}

#[test]
fn a_builder_lists_every_problem() {
    run(async {
        let ticket = Ticket::new(MeshKey::from_bytes([1; 32]), vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        let error = datamesh::builder()
            .listen("with a space")
            .zone("z".repeat(1000))
            .mesh_key(MeshKey::from_bytes([2; 32]))
            .join(ticket)
            .open()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        for part in ["address", "zone", "another mesh"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }

        #[cfg(all(feature = "libp2p", feature = "disk"))]
        {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("node");
            let open = datamesh::builder().path(&path).listen("garbage").announce("/ip4/1.2.3.4").open();
            let text = open.await.unwrap_err().to_string();
            assert!(text.contains("(garbage)") && text.contains("(/ip4/1.2.3.4)"), "{text}");
            assert!(!path.exists(), "a directory was made for settings that cannot be");
        }

        let error = Mesh::builder().segment_bytes(1).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        for part in ["runtime", "storage", "erasure code", "crypto suite", "identity", "segments are"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }

        let limits = Limits::default().with_memory_bytes(0);
        assert_eq!(kind(datamesh::builder().limits(limits).open().await), ErrorKind::InvalidInput);
    });
}

#[test]
fn nobody_answers_at_the_tickets_addresses() {
    run(async {
        let network = MemoryNetwork::new();
        let gone = datamesh::builder().network(&network).open().await.unwrap();
        let ticket = gone.ticket().unwrap();
        gone.shutdown().await.unwrap();
        let error = datamesh::builder().network(&network).join(ticket.clone()).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let empty = Ticket { addresses: Vec::new(), ..ticket };
        let alone = datamesh::builder().network(&network).join(empty).open().await;
        assert_eq!(kind(alone), ErrorKind::InvalidInput);
        let nowhere = datamesh::builder().capacity(0).open().await.unwrap_err();
        assert_eq!(nowhere.kind(), ErrorKind::InvalidInput);
        assert!(nowhere.to_string().contains("no node to hold a shard"), "{nowhere}");
        let client = datamesh::builder().network(&MemoryNetwork::new()).capacity(0).open().await.unwrap();
        assert_eq!(kind(client.put("x").await), ErrorKind::NotStored);
        let unheard = datamesh::memory().await.unwrap();
        assert_eq!(kind(unheard.ticket()), ErrorKind::InvalidInput);
    });
}
