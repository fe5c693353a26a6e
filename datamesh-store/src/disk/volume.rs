//! The bytes of a volume file. `docs/store-format.md` has them as tables.

use datamesh_core::id::ShardId;
use datamesh_core::ports::MAX_BLOB_LEN;

/// Bytes before the first entry of a volume.
pub(crate) const FILE_HEADER_LEN: u64 = 64;
/// Bytes before the payload of an entry.
pub(crate) const ENTRY_HEADER_LEN: u64 = 56;
/// The version of the volume files and of the records file.
pub(crate) const STORE_VERSION: u32 = 1;

const FILE_MAGIC: &[u8; 8] = b"DMVOLUME";
const ENTRY_MAGIC: &[u8; 4] = b"DMSH";

/// Where a blob's payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) volume: u32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A row of the tables `blobs` and `volumes`: sixteen bytes and their check.
pub(crate) type Row = [u8; 16 + CHECK_LEN];

/// The bytes of the check at the end of every row of the records file.
pub(crate) const CHECK_LEN: usize = 8;

/// What stands at the end of a row: it ties the bytes to their table and key, since redb looks at the checksums of
/// its pages only after a crash.
pub(crate) fn check(table: &str, key: &[u8], value: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in [table.as_bytes(), key, value] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// A row with its check.
pub(crate) fn sealed(table: &str, key: &[u8], value: [u8; 16]) -> Row {
    let mut row = [0; 16 + CHECK_LEN];
    put(&mut row, 0, &value);
    put(&mut row, 16, &check(table, key, &value));
    row
}

/// The value of a row, `None` where its check fails.
pub(crate) fn opened(table: &str, key: &[u8], row: &Row) -> Option<[u8; 16]> {
    let value = take(row, 0)?;
    (take(row, 16)? == check(table, key, &value)).then_some(value)
}

impl Location {
    pub(crate) fn encode(self, id: &ShardId) -> Row {
        let mut row = [0; 16];
        put(&mut row, 0, &self.volume.to_le_bytes());
        put(&mut row, 4, &self.length.to_le_bytes());
        put(&mut row, 8, &self.offset.to_le_bytes());
        sealed("blobs", id.as_bytes(), row)
    }

    /// `None` for a row that no store writes for this blob.
    pub(crate) fn decode(id: &ShardId, row: &Row) -> Option<Self> {
        let row = &opened("blobs", id.as_bytes(), row)?;
        let length = u32::from_le_bytes(take(row, 4)?);
        let offset = u64::from_le_bytes(take(row, 8)?);
        let sane = length as usize <= MAX_BLOB_LEN
            && offset >= FILE_HEADER_LEN + ENTRY_HEADER_LEN
            && offset.checked_add(padded(length)).is_some();
        sane.then_some(Self { volume: u32::from_le_bytes(take(row, 0)?), offset, length })
    }

    /// Where the next entry begins.
    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(padded(self.length))
    }

    /// The bytes of the whole entry.
    pub(crate) fn entry_len(self) -> u64 {
        entry_len(self.length)
    }
}

/// What the records file knows of a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VolumeRow {
    /// The end of the last entry that a commit made durable.
    pub(crate) length: u64,
    /// The bytes of entries that the index names.
    pub(crate) live: u64,
}

impl VolumeRow {
    pub(crate) fn encode(self, volume: u32) -> Row {
        let mut row = [0; 16];
        put(&mut row, 0, &self.length.to_le_bytes());
        put(&mut row, 8, &self.live.to_le_bytes());
        sealed("volumes", &volume.to_le_bytes(), row)
    }

    /// `None` for a row that no store writes for this volume.
    pub(crate) fn decode(volume: u32, row: &Row) -> Option<Self> {
        let row = &opened("volumes", &volume.to_le_bytes(), row)?;
        Some(Self { length: u64::from_le_bytes(take(row, 0)?), live: u64::from_le_bytes(take(row, 8)?) })
    }
}

/// The bytes of an entry with a payload of this length.
pub(crate) fn entry_len(length: u32) -> u64 {
    ENTRY_HEADER_LEN + padded(length)
}

fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(8)
}

/// The zeros behind a payload of this length.
pub(crate) fn padding(length: u32) -> &'static [u8] {
    static ZEROS: [u8; 8] = [0; 8];
    let count = padded(length) - u64::from(length);
    ZEROS.get(..count as usize).unwrap_or_default()
}

/// The name of a volume's file.
pub(crate) fn file_name(volume: u32) -> String {
    format!("{volume:08}.vol")
}

/// The volume of a file name, `None` where no volume has that name.
pub(crate) fn parse_file_name(name: &str) -> Option<u32> {
    let volume = name.strip_suffix(".vol")?.parse().ok()?;
    (file_name(volume) == name).then_some(volume)
}

/// The first bytes of a volume.
pub(crate) fn file_header(volume: u32, store: &[u8; 16]) -> [u8; FILE_HEADER_LEN as usize] {
    let mut header = [0; FILE_HEADER_LEN as usize];
    put(&mut header, 0, FILE_MAGIC);
    put(&mut header, 8, &STORE_VERSION.to_le_bytes());
    put(&mut header, 12, &volume.to_le_bytes());
    put(&mut header, 16, store);
    seal(&mut header);
    header
}

/// The bytes before a payload.
pub(crate) fn entry_header(id: &ShardId, length: u32) -> [u8; ENTRY_HEADER_LEN as usize] {
    let mut header = [0; ENTRY_HEADER_LEN as usize];
    put(&mut header, 0, ENTRY_MAGIC);
    put(&mut header, 4, &length.to_le_bytes());
    put(&mut header, 8, id.as_bytes());
    seal(&mut header);
    header
}

/// Writes the checksum of all bytes before the last eight into the last eight.
fn seal(header: &mut [u8]) {
    if let Some((body, sum)) = header.split_last_chunk_mut::<8>() {
        let hash = blake3::hash(body);
        put(sum, 0, hash.as_bytes().get(..8).unwrap_or_default());
    }
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = target.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

fn take<const N: usize>(row: &[u8], at: usize) -> Option<[u8; N]> {
    row.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip() {
        let location = Location { volume: 7, offset: 120, length: 13 };
        let (id, other) = (ShardId::from_bytes([1; 32]), ShardId::from_bytes([2; 32]));
        assert_eq!(Location::decode(&id, &location.encode(&id)), Some(location));
        assert_eq!(Location::decode(&other, &location.encode(&id)), None, "the row of another blob");
        assert_eq!((location.end(), location.entry_len()), (136, 72));
        assert_eq!(padding(13).len(), 3);
        assert_eq!(padding(16).len(), 0);
        let row = VolumeRow { length: 1 << 40, live: 99 };
        assert_eq!(VolumeRow::decode(3, &row.encode(3)), Some(row));
        assert_eq!(VolumeRow::decode(4, &row.encode(3)), None, "the row of another volume");
        assert_eq!(Location::decode(&id, &[0xff; 24]), None);
        let far = Location { offset: u64::MAX, ..location };
        assert_eq!(Location::decode(&id, &far.encode(&id)), None);
    }

    #[test]
    fn every_flipped_bit_of_a_row_shows() {
        let id = ShardId::from_bytes([1; 32]);
        let row = Location { volume: 7, offset: 120, length: 13 }.encode(&id);
        for bit in 0..row.len() * 8 {
            let mut flipped = row;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Location::decode(&id, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn file_names_are_exact() {
        assert_eq!(parse_file_name(&file_name(12)), Some(12));
        assert_eq!(parse_file_name(&file_name(u32::MAX)), Some(u32::MAX));
        for name in ["12.vol", "00000012.vol~", "+0000012.vol", "x.vol", ".vol"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn headers_are_pinned() {
        let header = entry_header(&ShardId::from_bytes([1; 32]), 5);
        assert_eq!(header[..8], *b"DMSH\x05\0\0\0");
        assert_eq!(header[48..], blake3::hash(&header[..48]).as_bytes()[..8]);
        let header = file_header(3, &[9; 16]);
        assert_eq!(header[..16], *b"DMVOLUME\x01\0\0\0\x03\0\0\0");
        assert_eq!(header[56..], blake3::hash(&header[..56]).as_bytes()[..8]);
    }
}
