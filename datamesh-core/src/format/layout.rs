//! The public description of an extent.
// pub struct PlacementKey([u8;32]) (from_bytes, as_bytes, and `PlacementKey::of_extent(salt: &Salt, index: u64)` by derive_key; `From<ObjectId>` for manifests)
// pub struct Layout { pub code: CodeId, pub redundancy: Redundancy, pub shard_len: u32, pub segments: u8, pub last_shard_len: u32,
//                     pub placement: PlacementKey, pub removal: RemovalHash, pub shards: Vec<ShardId> /* segment-major, segments * n */ }
// impl Layout { pub fn encode(&self) -> Bytes; pub fn decode(bytes: &[u8]) -> Result<Self>; // Error kinds Corrupt / Unsupported
//   pub fn shard(&self, segment: usize, index: usize) -> Option<ShardId>; pub fn shard_len_of(&self, segment: usize) -> usize }
// pub const MAX_LAYOUT_LEN: usize = 64 << 10; pub const MAX_SEGMENTS_OF_EXTENT: usize = 64;
// pub fn segments_per_extent(redundancy: Redundancy) -> usize  // so that encode() stays under MAX_LAYOUT_LEN
// pub fn shard_len(sealed_len: usize, redundancy: Redundancy) -> usize // ceil(sealed/k) rounded up to 64
