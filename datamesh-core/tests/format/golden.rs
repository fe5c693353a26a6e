//! The bytes of format version 1, pinned. A difference here is a change of the format.
//!
//! `DATAMESH_WRITE_GOLDEN=1` writes the files anew, for a deliberate change.

use std::path::PathBuf;

use datamesh_core::format::*;
use datamesh_core::id::{ExtentId, ObjectId, ShardId};

use crate::samples::*;
use crate::suite::SUITE;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |index| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Compares with the golden file, and gives its content back.
fn pin(name: &str, made: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("DATAMESH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{made}\n")).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap().trim_end().to_owned();
    assert_eq!(golden, made, "{name} has changed");
    golden
}

#[test]
fn keys_and_names() {
    let read = owner().read_key();
    let removal = owner().removal_secret();
    let lines = [
        ("owner_secret", *owner().as_bytes()),
        ("read_key", *read.as_bytes()),
        ("removal_secret", *removal.as_bytes()),
        ("removal_hash", *removal.hash().as_bytes()),
        ("key_commitment", *keys().commitment().as_bytes()),
        ("salt", *salt().as_bytes()),
        ("placement_key_of_extent_0", *PlacementKey::of_extent(&salt(), 0).as_bytes()),
        ("extent_id", *ExtentId::of(&layout().encode()).as_bytes()),
        ("object_id_inline", *inline_manifest().0.as_bytes()),
        ("object_id_single", *single_manifest().0.as_bytes()),
        ("object_id_many", *many_manifest().0.as_bytes()),
        ("hash_of_5000_bytes", *ShardId::of(&(0..5000u32).map(|n| n as u8).collect::<Vec<_>>()).as_bytes()),
        ("mesh_key", *ticket().mesh_key().unwrap().as_bytes()),
        ("network_name", ticket().mesh_key().unwrap().network_name()),
    ];
    pin("keys.txt", &lines.map(|(name, value)| format!("{name} {}", hex(&value))).join("\n"));
}

#[test]
fn segments_and_shards() {
    let lines = |values: Vec<Vec<u8>>| values.iter().map(|value| hex(value)).collect::<Vec<_>>().join("\n");
    let golden = pin("segments.hex", &lines(sealed_segments()));
    pin("shards.hex", &lines(shards()));
    let mut plain = Vec::new();
    for (index, line) in golden.lines().enumerate() {
        let mut sealed = unhex(line);
        let tag = sealed.split_off(sealed.len() - TAG_LEN).try_into().unwrap();
        keys().open_segment(&SUITE, &salt(), index as u64, index == 1, &mut sealed, &tag).unwrap();
        plain.extend_from_slice(&sealed);
    }
    assert_eq!(plain, plaintext());
}

#[test]
fn admission_bytes() {
    let certificate = unhex(&pin("certificate.hex", &hex(&self::certificate().encode())));
    assert_eq!(SignedCertificate::decode(&certificate, &SUITE).unwrap(), self::certificate());
    let epoch = unhex(&pin("epoch.hex", &hex(&self::epoch().encode())));
    assert_eq!(SignedEpoch::decode(&epoch, &SUITE).unwrap(), self::epoch());
    let epochs = unhex(&pin("epochs.hex", &hex(&self::epochs().encode())));
    assert_eq!(Epochs::decode(&epochs, &SUITE).unwrap(), self::epochs());
}

#[test]
fn layout_bytes() {
    let golden = unhex(&pin("layout.hex", &hex(&layout().encode())));
    assert_eq!(Layout::decode(&golden).unwrap(), layout());
}

#[test]
fn manifest_bytes() {
    let cases = [
        ("manifest_inline.hex", inline_manifest(), header(11, Some(b"hello, mesh"))),
        ("manifest_single.hex", single_manifest(), header(1500, None)),
        ("manifest_many.hex", many_manifest(), header(128 * 1024 + 1, None)),
    ];
    for (name, (id, bytes), header) in cases {
        let golden = unhex(&pin(name, &hex(&bytes)));
        assert_eq!(ObjectId::of(&golden), id);
        let manifest = Manifest::decode(&golden).unwrap();
        assert_eq!(manifest.open(&keys(), &SUITE).unwrap(), header, "{name}");
    }
}

#[test]
fn text_forms() {
    let own = Capability::own(single_manifest().0, owner());
    let capabilities = [own.clone(), own.to_read().unwrap(), own.to_verify()];
    let texts = capabilities.each_ref().map(|capability| capability.to_text().to_string());
    let golden = pin("capabilities.txt", &texts.join("\n"));
    for (line, capability) in golden.lines().zip(&capabilities) {
        assert_eq!(&line.parse::<Capability>().unwrap(), capability);
    }
    let bytes = capabilities.each_ref().map(|capability| hex(&capability.to_bytes()));
    pin("capabilities.hex", &bytes.join("\n"));
    let golden = pin("ticket.txt", &ticket().to_text());
    assert_eq!(golden.parse::<Ticket>().unwrap(), ticket());
    let invitation = ticket().until(datamesh_core::ports::Timestamp(1_800_000_000_000)).unwrap();
    let golden = pin("invitation.txt", &invitation.to_text());
    assert_eq!(golden.parse::<Ticket>().unwrap(), invitation);
    let later = Ticket { entry: Entry::Key(mesh_keys().without_earlier()), ..ticket() };
    let golden = pin("ticket_later.txt", &later.to_text());
    assert_eq!(golden.parse::<Ticket>().unwrap(), later);
    assert_eq!(later.network(), ticket().network());
}

#[test]
fn record_bytes() {
    let golden = unhex(&pin("record.hex", &hex(&record().encode())));
    assert_eq!(SignedRecord::decode(&golden, &SUITE).unwrap(), record());
}

#[test]
fn mesh_keys_bytes() {
    let golden = unhex(&pin("mesh_keys.hex", &hex(&mesh_keys().encode())));
    assert_eq!(MeshKeys::decode(&golden).unwrap(), mesh_keys());
}

#[test]
fn message_heads() {
    let line = |name: &str, head: &[u8]| format!("{name} {}", hex(head));
    let lines: Vec<_> = requests().iter().map(|request| line(request.name(), &request.encode())).collect();
    let golden = pin("requests.hex", &lines.join("\n"));
    for (line, request) in golden.lines().zip(requests()) {
        assert_eq!(Request::decode(&unhex(line.split_once(' ').unwrap().1)).unwrap(), request);
    }
    let lines: Vec<_> = replies().iter().map(|reply| line(reply.name(), &reply.encode())).collect();
    let golden = pin("replies.hex", &lines.join("\n"));
    for (line, reply) in golden.lines().zip(replies()) {
        assert_eq!(Reply::decode(&unhex(line.split_once(' ').unwrap().1)).unwrap(), reply);
    }
}
