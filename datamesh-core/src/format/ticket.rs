//! What a node needs to join a mesh.
// pub struct MeshKey([u8;32]) zeroized, ct-eq, redacted Debug, from_bytes/as_bytes, fn proof_id? -> public name `fn network_name(&self) -> [u8;32]` by derive_key
// pub struct Ticket { pub mesh_key: MeshKey, pub addresses: Vec<Address> } to_text() -> Zeroizing<String>, FromStr, redacted Debug; "dmt1" + base32(cbor + checksum), at most 32 addresses
