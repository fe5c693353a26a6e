//! Secrets of an object and what is derived from them (BLAKE3 `derive_key`, one context for each purpose).
// types: OwnerSecret([u8;32]), ReadKey([u8;32]), RemovalSecret([u8;32]): Clone, ZeroizeOnDrop, Debug redacted, ct-eq PartialEq, from_bytes/as_bytes
//        RemovalHash([u8;32]), KeyCommitment([u8;32]), Salt([u8;32]): public values, Copy
// OwnerSecret::read_key() -> ReadKey; OwnerSecret::removal_secret() -> RemovalSecret; RemovalSecret::hash() -> RemovalHash
// ReadKey::object_keys() -> ObjectKeys { segment: [u8;32] (private), header (private), commitment: KeyCommitment }, ZeroizeOnDrop
// ObjectKeys:
//   fn commitment(&self) -> &KeyCommitment
//   fn seal_segment(&self, suite: &dyn CryptoSuite, salt: &Salt, index: u64, last: bool, buffer: &mut [u8]) -> Result<[u8; TAG_LEN]>
//   fn open_segment(&self, suite: &dyn CryptoSuite, salt: &Salt, index: u64, last: bool, buffer: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<()>
//   nonce = 11-byte big-endian index + 1-byte last flag; AAD = "datamesh/v1/segment" | version | suite id | salt | index u64 | last flag
