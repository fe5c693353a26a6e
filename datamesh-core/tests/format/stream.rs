//! What the sealing of segments and headers must notice.

use datamesh_core::ErrorKind;
use datamesh_core::format::*;
use datamesh_core::ports::{SuiteId, Timestamp};

use crate::samples::*;
use crate::suite::{SUITE, Suite};

fn open(index: u64, last: bool, sealed: &[u8]) -> Result<Vec<u8>, ErrorKind> {
    open_with(&keys(), &SUITE, &salt(), index, last, sealed)
}

fn open_with(
    keys: &ObjectKeys,
    suite: &Suite,
    salt: &Salt,
    index: u64,
    last: bool,
    sealed: &[u8],
) -> Result<Vec<u8>, ErrorKind> {
    let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().unwrap();
    let mut buffer = body.to_vec();
    let opened = keys.open_segment(suite, salt, index, last, &mut buffer, tag);
    opened.map(|()| buffer).map_err(|error| error.kind())
}

#[test]
fn segments_open_only_in_their_place() {
    let sealed = sealed_segments();
    let [first, second] = sealed.as_slice() else { panic!("two segments") };
    assert_eq!(open(0, false, first).unwrap(), plaintext()[..1024]);
    assert_eq!(open(1, true, second).unwrap(), plaintext()[1024..]);
    assert_eq!(open(0, true, first), Err(ErrorKind::Corrupt), "truncated after the first");
    assert_eq!(open(1, false, second), Err(ErrorKind::Corrupt), "extended after the last");
    assert_eq!(open(0, false, second), Err(ErrorKind::Corrupt), "reordered");
    assert_eq!(open(0, true, second), Err(ErrorKind::Corrupt), "reordered, last");
    assert_eq!(open(1, false, first), Err(ErrorKind::Corrupt), "duplicated");
    assert_eq!(open(1, true, first), Err(ErrorKind::Corrupt), "duplicated, last");
    assert_eq!(open(1 << 40, true, second), Err(ErrorKind::Corrupt), "another index");
}

#[test]
fn segments_open_only_with_their_key_salt_suite_and_bytes() {
    let sealed = sealed_segments().swap_remove(0);
    let other_keys = ReadKey::from_bytes([9; 32]).object_keys();
    let other_salt = Salt::from_bytes([9; 32]);
    let corrupt = Err(ErrorKind::Corrupt);
    assert_eq!(open_with(&other_keys, &SUITE, &salt(), 0, false, &sealed), corrupt);
    assert_eq!(open_with(&keys(), &SUITE, &other_salt, 0, false, &sealed), corrupt);
    assert_eq!(open_with(&keys(), &Suite(SuiteId(0x8001)), &salt(), 0, false, &sealed), corrupt);
    for position in [0, 500, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert_eq!(open(0, false, &changed), corrupt);
    }
    assert_eq!(open(0, false, &sealed[1..]), corrupt);
}

#[test]
fn a_wrong_key_is_denied_before_anything_is_opened() {
    let manifest = Manifest::decode(&inline_manifest().1).unwrap();
    let error = manifest.open(&ReadKey::from_bytes([9; 32]).object_keys(), &SUITE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert_eq!(error.to_string(), "this capability does not open the object");
    let error = manifest.open(&keys(), &Suite(SuiteId(0x8001))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn every_flipped_byte_of_a_manifest_is_noticed() {
    for (_, bytes) in [inline_manifest(), single_manifest(), many_manifest()] {
        for position in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[position] ^= 1;
            let opened = Manifest::decode(&changed).and_then(|manifest| manifest.open(&keys(), &SUITE));
            assert!(opened.is_err(), "byte {position} is not covered");
        }
    }
}

#[test]
fn nothing_prints_a_secret() {
    const CANARY: [u8; 32] = *b"canary-canary-canary-canary-cana";
    let owner = OwnerSecret::from_bytes(CANARY);
    let capability = Capability::own(inline_manifest().0, owner.clone());
    let ticket = Ticket::new(MeshKey::from_bytes(CANARY), vec![]);
    let mut header = header(0, Some(b"canary-canary"));
    header.metadata.insert("canary-canary".into(), "canary-canary".into());
    let printed = format!(
        "{owner:?} {:#?} {:?} {:?} {:?} {capability:?} {ticket:#?} {header:?}",
        ReadKey::from_bytes(CANARY),
        RemovalSecret::from_bytes(CANARY),
        ReadKey::from_bytes(CANARY).object_keys(),
        MeshKey::from_bytes(CANARY),
    );
    for leak in ["canary", "63616e61", "99, 97, 110", "99,\n"] {
        assert!(!printed.contains(leak), "{leak:?} in {printed}");
    }
    assert!(!printed.contains(&capability.to_text()[60..80]));
    assert!(printed.contains(&format!("Capability(own, {})", capability.object().fmt_short())));
}

#[test]
fn nothing_prints_more_of_the_name_of_a_mesh_than_where_it_begins() {
    const CANARY: [u8; 32] = *b"name-canary-name-canary-name-can";
    let until = Timestamp(1);
    let keys = MeshKeys { network: CANARY, ..MeshKeys::first(MeshKey::from_bytes([1; 32])) };
    let keys = keys.next(MeshKey::from_bytes([2; 32]), until, Timestamp(0)).unwrap();
    let ticket = Ticket { entry: Entry::Key(keys.clone()), addresses: vec![], admission: vec![] };
    let invitation = ticket.clone().until(until).unwrap();
    let request = Request::Keys { generation: 0, name: KeyName::from_bytes(CANARY) };
    let printed = [
        format!("{keys:?} {keys:#?}"),
        format!("{ticket:?} {ticket:#?}"),
        format!("{invitation:?} {invitation:#?}"),
        format!("{request:?} {request:#?}"),
    ];
    for text in printed {
        // As text, in hexadecimal, in a line of numbers and with a number in a line.
        for leak in ["canary", "2d63", "2D63", "45, 99", "110,\n"] {
            assert!(!text.contains(leak), "{leak:?} in {text}");
        }
        assert_eq!(text.matches("KeyName(6e616d65)").count(), 2, "{text}");
    }
}

#[test]
fn weaker_capabilities_are_derived_and_stronger_ones_are_not() {
    let own = Capability::own(inline_manifest().0, owner());
    let (read, verify) = (own.to_read().unwrap(), own.to_verify());
    assert_eq!(own.read_key().unwrap(), read.read_key().unwrap());
    assert_eq!(own.removal_secret().unwrap(), owner().removal_secret());
    assert!(Access::Verify < Access::Read && Access::Read < Access::Own);
    for refused in [
        read.removal_secret().err(),
        verify.removal_secret().err(),
        verify.read_key().err(),
        verify.to_read().err(),
    ] {
        assert_eq!(refused.unwrap().kind(), ErrorKind::AccessDenied);
    }
}
