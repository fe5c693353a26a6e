//! Canaries in plaintext, names and keys never show in stores, frames or debug output.
#![cfg(feature = "disk")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::lab::{Dial, FaultyTransport, Lab};
use common::{PATIENCE, noise, run};
use datamesh::ports::{Identity, Runtime};
use datamesh::runtime::NativeRuntime;
use datamesh::{MemoryNetwork, Mesh, NodeIdentity, Receipt, ShardId};
use tempfile::TempDir;

/// Nobody writes this by chance, nor does a cipher.
const PLAINTEXT: &[u8] = b"canary-in-plaintext-5b1c";
const NAME: &str = "canary-in-a-name-8d22";
const VALUE: &str = "canary-in-a-value-c70e";
const MEDIA_TYPE: &str = "canary/media-type-41aa";

/// A node with a disk, all of whose frames are kept.
struct Site {
    mesh: Mesh,
    dial: Dial,
    directory: TempDir,
}

async fn sites(count: u8) -> Vec<Site> {
    let network = MemoryNetwork::new();
    let runtime: Arc<dyn Runtime> = NativeRuntime::shared().unwrap();
    let mut sites: Vec<Site> = Vec::new();
    for number in 1..=count {
        let (identity, dial) = (NodeIdentity::from_secret([number; 32]), Dial::default());
        dial.record();
        let place = network.join(identity.node_id(), Arc::clone(&runtime)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut builder = datamesh::builder()
            .path(directory.path())
            .identity(identity)
            .transport(FaultyTransport::new(place, &dial))
            .segment_bytes(64 << 10)
            .capacity(1 << 40);
        if let Some(first) = sites.first() {
            builder = builder.join(first.mesh.ticket().unwrap());
        }
        sites.push(Site { mesh: builder.open().await.unwrap(), dial, directory });
    }
    for site in &sites {
        site.mesh.wait_for_nodes(usize::from(count), PATIENCE).await.unwrap();
    }
    sites
}

/// The canary again and again, so that every segment is full of it.
fn plaintext(len: usize) -> Vec<u8> {
    PLAINTEXT.iter().copied().cycle().take(len).collect()
}

async fn put(mesh: &Mesh, len: usize) -> Receipt {
    mesh.put(plaintext(len)).media_type(MEDIA_TYPE).metadata(NAME, VALUE).await.unwrap()
}

/// Everything that must not be seen by anyone without the capability.
fn canaries(receipts: &[Receipt]) -> Vec<Vec<u8>> {
    let mut canaries: Vec<Vec<u8>> =
        [PLAINTEXT, NAME.as_bytes(), VALUE.as_bytes(), MEDIA_TYPE.as_bytes()].map(<[u8]>::to_vec).into();
    for receipt in receipts {
        let own = &receipt.capability;
        let read = own.to_read().unwrap();
        canaries.push(own.to_text().as_bytes().to_vec());
        canaries.push(read.to_text().as_bytes().to_vec());
        canaries.push(own.read_key().unwrap().as_bytes().to_vec());
        canaries.push(own.removal_secret().unwrap().as_bytes().to_vec());
        // The owner secret is what the own capability has at its end.
        let bytes = own.to_bytes();
        canaries.push(bytes[bytes.len() - 32..].to_vec());
    }
    canaries
}

fn find<'a>(canaries: &'a [Vec<u8>], bytes: &[u8]) -> Option<&'a Vec<u8>> {
    canaries.iter().find(|canary| bytes.windows(canary.len()).any(|window| window == &canary[..]))
}

fn files(directory: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(fs::read(&path).unwrap()) }
    }
}

#[test]
fn stores_and_frames_show_nothing() {
    run(async {
        let sites = sites(6).await;
        let receipts = [
            put(&sites[0].mesh, 200_000).await,
            put(&sites[1].mesh, 2_000).await,
            put(&sites[2].mesh, 70_000).await,
        ];
        for receipt in &receipts {
            let got = sites[5].mesh.get(&receipt.capability).await.unwrap();
            assert_eq!(got, plaintext(got.len()));
            sites[4].mesh.stat(&receipt.capability).await.unwrap();
            sites[4].mesh.health(&receipt.capability).await.unwrap();
        }
        let canaries = canaries(&receipts);
        let frames: Vec<_> = sites.iter().flat_map(|site| site.dial.frames()).collect();
        let carried: usize = frames.iter().map(|frame| frame.head.len() + frame.body.len()).sum();
        assert!(carried > 300_000, "the frames were recorded: {carried} bytes");
        for frame in &frames {
            assert_eq!(find(&canaries, &frame.head), None);
            assert_eq!(find(&canaries, &frame.body), None);
        }
        for site in &sites {
            site.mesh.shutdown().await.unwrap();
        }
        let mut stored = Vec::new();
        sites.iter().for_each(|site| files(site.directory.path(), &mut stored));
        assert!(stored.iter().map(Vec::len).sum::<usize>() > 300_000, "the stores were read");
        for file in &stored {
            assert_eq!(find(&canaries, file), None);
        }
    });
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let canaries = canaries(&[]);
    assert!(find(&canaries, &plaintext(100)).is_some());
    assert!(find(&canaries, b"xxcanary/media-type-41aaxx").is_some());
    assert!(find(&canaries, &noise(100_000, 1)).is_none());
}

#[test]
fn debug_output_shows_nothing() {
    run(async {
        let mesh = datamesh::memory().await.unwrap();
        let receipt = put(&mesh, 5_000).await;
        let own = &receipt.capability;
        let read = own.to_read().unwrap();
        let key = datamesh::MeshKey::from_bytes(*b"canary-in-the-mesh-key-32-bytes!");
        let ticket = datamesh::Ticket::new(key.clone(), vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        let end = datamesh::ports::Timestamp(1_800_000_000_000);
        let invitation = ticket.clone().until(end).unwrap();
        let identity = NodeIdentity::from_secret(*b"canary-in-the-node-key-32-bytes!");
        let recipient = datamesh::sharing::new_recipient().unwrap();
        let recipient_bytes = recipient.secret_bytes().to_vec();
        let reader = mesh.get(own).reader().await.unwrap();
        let stream = mesh.get(own).stream().await.unwrap();
        let stat = mesh.stat(own).await.unwrap();
        let builder = datamesh::builder().mesh_key(key.clone()).join(ticket.clone());
        let asked = mesh.put(plaintext(10)).media_type(MEDIA_TYPE).metadata(NAME, VALUE);
        let wrong =
            datamesh::Capability::own(own.object(), datamesh::format::OwnerSecret::from_bytes([7; 32]));
        let denied = mesh.get(&wrong).await.unwrap_err();
        let values: Vec<&dyn Debug> = vec![
            &mesh,
            &receipt,
            own,
            &read,
            &key,
            &ticket,
            &invitation,
            &identity,
            &recipient,
            &reader,
            &stream,
            &stat,
            &builder,
            &asked,
            &denied,
        ];
        let mut canaries = canaries(std::slice::from_ref(&receipt));
        canaries.push(b"canary-in-the-mesh-key-32-bytes!".to_vec());
        canaries.push(b"canary-in-the-node-key-32-bytes!".to_vec());
        canaries.push(recipient_bytes);
        canaries.push(ticket.to_text().as_bytes().to_vec());
        canaries.push(invitation.to_text().as_bytes().to_vec());
        canaries.push(key.invitation(end).as_bytes().to_vec());
        // The same as numbers and as hexadecimal digits, as derived output would show them.
        let numbers = |bytes: &Vec<u8>| format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec();
        let hex = |bytes: &Vec<u8>| -> Vec<u8> {
            bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
        };
        let coded: Vec<_> = canaries.iter().flat_map(|canary| [numbers(canary), hex(canary)]).collect();
        canaries.extend(coded);
        for value in values {
            for text in [format!("{value:?}"), format!("{value:#?}")] {
                assert_eq!(
                    find(&canaries, text.as_bytes()).map(|c| String::from_utf8_lossy(c)),
                    None,
                    "{text}"
                );
            }
        }
        let gets: Vec<String> = vec![
            format!("{:?}", mesh.get(own)),
            format!("{:?}", mesh.stat(own)),
            format!("{:?}", mesh.remove(own)),
            format!("{:?}", mesh.get(own).reader()),
        ];
        gets.iter().for_each(|text| assert_eq!(find(&canaries, text.as_bytes()), None, "{text}"));
    });
}

#[test]
fn the_same_bytes_twice_give_unrelated_shards() {
    run(async {
        let lab = Lab::open().await;
        let first = lab.client.put(plaintext(100_000)).await.unwrap();
        let mut before: BTreeSet<ShardId> = BTreeSet::new();
        for site in &lab.sites {
            before.extend(site.store.blobs().await.into_iter().map(|(id, _)| id));
        }
        let second = lab.client.put(plaintext(100_000)).await.unwrap();
        let mut after: BTreeSet<ShardId> = BTreeSet::new();
        for site in &lab.sites {
            after.extend(site.store.blobs().await.into_iter().map(|(id, _)| id));
        }
        assert!(first.object != second.object);
        // Seven segments of six shards, none of them shared, and none alike within an object.
        assert_eq!((before.len(), after.len()), (7 * 6, 2 * 7 * 6));
    });
}
