//! What a node says on a local network, to whom it may concern: where it listens.
//!
//! An announcement is an answer of multicast DNS that nobody asked for, with a name made anew each time. Who knows
//! the mesh key sees that it is of the mesh; to everybody else no two announcements have anything in common but the
//! ports.

use crate::format::ticket::MeshKey;

/// The most ports of an announcement.
pub const MAX_ANNOUNCED: usize = 8;

const VERSION: u8 = 1;
const CONTEXT: &str = "datamesh v1 announcement on a local network";
const NONCE_LEN: usize = 16;
const TAG_LEN: usize = 16;
const PORT_LEN: usize = 3;

/// The head of a multicast DNS answer: no id, an authoritative answer, one record.
const HEAD: [u8; 12] = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// The rest of the record's name, its type (text), its class (internet) and its time to live: ten seconds.
const MIDDLE: [u8; 15] = [5, b'l', b'o', b'c', b'a', b'l', 0, 0, 16, 0, 1, 0, 0, 0, 10];

/// What the announcements of a mesh are made and known with.
#[derive(Clone)]
pub struct AnnouncementKey([u8; 32]);

impl AnnouncementKey {
    /// The key of this mesh's announcements.
    pub fn derive(mesh_key: &MeshKey) -> Self {
        Self(blake3::derive_key(CONTEXT, mesh_key.as_bytes()))
    }
}

impl std::fmt::Debug for AnnouncementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnnouncementKey(..)")
    }
}

/// A port that a node listens on, at the address that its announcement comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ListensOn {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port for QUIC.
    Quic(u16),
}

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcement {
    /// At most [`MAX_ANNOUNCED`] ports.
    pub ports: Vec<ListensOn>,
}

impl Announcement {
    /// The bytes of the packet; the nonce must be new and random, or announcements can be told to be of one node. Ports
    /// beyond the limit are left out.
    pub fn encode(&self, key: &AnnouncementKey, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let mut ports = Vec::with_capacity(MAX_ANNOUNCED * PORT_LEN);
        for port in self.ports.iter().take(MAX_ANNOUNCED) {
            let (kind, port) = match port {
                ListensOn::Tcp(port) => (1, port),
                ListensOn::Quic(port) => (2, port),
            };
            ports.push(kind);
            ports.extend(port.to_be_bytes());
        }
        let label = data_encoding::HEXLOWER.encode(&nonce);
        // The text is at most 41 bytes long.
        let text_len = (1 + TAG_LEN + ports.len()) as u8;
        let mut packet = HEAD.to_vec();
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
        packet.extend(MIDDLE);
        packet.extend([0, text_len + 1, text_len, VERSION]);
        packet.extend(tag(key, &nonce, &ports));
        packet.extend(ports);
        packet
    }

    /// Reads a packet; `None` for every other one that is sent on a local network, and for the announcements of other
    /// meshes.
    pub fn decode(packet: &[u8], key: &AnnouncementKey) -> Option<Self> {
        let nonce = Self::nonce(packet)?;
        let text = packet.get(HEAD.len() + 1 + 2 * NONCE_LEN..)?.strip_prefix(&MIDDLE)?;
        let (&[0, record_len, text_len, VERSION], text) = text.split_first_chunk()? else { return None };
        let (shown, ports) = text.split_at_checked(TAG_LEN)?;
        let whole = usize::from(text_len) == 1 + text.len() && record_len == text_len.checked_add(1)?;
        if !whole || ports.len() > MAX_ANNOUNCED * PORT_LEN || !ports.len().is_multiple_of(PORT_LEN) {
            return None;
        }
        // Compared in constant time, as BLAKE3's hashes are.
        let padded = |tag: &[u8]| {
            let mut bytes = [0; 32];
            bytes.iter_mut().zip(tag).for_each(|(to, from)| *to = *from);
            blake3::Hash::from_bytes(bytes)
        };
        if padded(shown) != padded(&tag(key, &nonce, ports)) {
            return None;
        }
        let port = |port: &[u8]| match *port {
            [1, high, low] => Some(ListensOn::Tcp(u16::from_be_bytes([high, low]))),
            [2, high, low] => Some(ListensOn::Quic(u16::from_be_bytes([high, low]))),
            _ => None,
        };
        Some(Self { ports: ports.chunks_exact(PORT_LEN).map(port).collect::<Option<_>>()? })
    }

    /// The nonce of a packet that has the form of an announcement.
    pub(crate) fn nonce(packet: &[u8]) -> Option<[u8; NONCE_LEN]> {
        let (&label_len, rest) = packet.strip_prefix(&HEAD)?.split_first()?;
        let label = rest.get(..2 * NONCE_LEN).filter(|_| usize::from(label_len) == 2 * NONCE_LEN)?;
        data_encoding::HEXLOWER.decode(label).ok()?.try_into().ok()
    }
}

fn tag(key: &AnnouncementKey, nonce: &[u8], ports: &[u8]) -> [u8; TAG_LEN] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(nonce).update(&[VERSION]).update(ports);
    let mut tag = [0; TAG_LEN];
    hasher.finalize_xof().fill(&mut tag);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> AnnouncementKey {
        AnnouncementKey::derive(&MeshKey::from_bytes([byte; 32]))
    }

    fn sample() -> Announcement {
        Announcement { ports: vec![ListensOn::Tcp(4001), ListensOn::Quic(65_535)] }
    }

    #[test]
    fn announcements_survive_and_are_of_one_mesh() {
        for announcement in [sample(), Announcement::default()] {
            let packet = announcement.encode(&key(1), [3; 16]);
            assert_eq!(Announcement::decode(&packet, &key(1)), Some(announcement));
            assert_eq!(Announcement::decode(&packet, &key(2)), None);
        }
        let many = Announcement { ports: vec![ListensOn::Tcp(1); 100] };
        let packet = many.encode(&key(1), [3; 16]);
        assert_eq!(Announcement::decode(&packet, &key(1)).unwrap().ports.len(), MAX_ANNOUNCED);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_no_announcement() {
        let packet = sample().encode(&key(1), [3; 16]);
        for bit in 0..packet.len() * 8 {
            let mut other = packet.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Announcement::decode(&other, &key(1)), None, "bit {bit}");
        }
        for len in 0..packet.len() {
            assert_eq!(Announcement::decode(&packet[..len], &key(1)), None, "cut at {len}");
        }
        let longer = [packet.as_slice(), &[0]].concat();
        assert_eq!(Announcement::decode(&longer, &key(1)), None);
    }

    #[test]
    fn two_announcements_share_nothing_but_their_form_and_ports() {
        let (one, other) = (sample().encode(&key(1), [3; 16]), sample().encode(&key(1), [4; 16]));
        let tag_at = one.len() - 2 * PORT_LEN - TAG_LEN;
        let (one, other) = (&one[tag_at..][..TAG_LEN], &other[tag_at..][..TAG_LEN]);
        let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
        assert!(same < 8, "{one:02x?} {other:02x?}");
    }

    #[test]
    fn the_packet_is_pinned() {
        let packet = sample().encode(&key(7), [3; 16]);
        let expected = include_str!("../../tests/golden/announcement.hex").trim();
        assert_eq!(data_encoding::HEXLOWER.encode(&packet), expected);
    }
}
