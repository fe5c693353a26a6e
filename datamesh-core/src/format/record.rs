//! What a node says of itself, signed.
// pub struct Zone(String) <= 64 bytes, printable; FromStr, Display, as_str, Default = "default"
// pub struct NodeRecord { pub node: NodeId, pub addresses: Vec<Address> (<= 16), pub zone: Zone, pub capacity: u64 (bytes offered; 0: a client), pub sequence: u64 }
// impl NodeRecord { pub fn sign(self, identity: &dyn Identity) -> Result<SignedRecord> }
// pub struct SignedRecord { record: NodeRecord, bytes: Bytes /* as signed */, signature }  accessors record(), encode() -> Bytes, decode(&[u8], suite: &dyn CryptoSuite) -> Result<SignedRecord> (verifies; AccessDenied for a bad signature)
//   signed message = "datamesh/v1/node-record" | bytes
