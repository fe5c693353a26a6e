//! Heads of the messages that nodes exchange; bodies are raw bytes beside them.
// pub enum Request {
//   Ping,
//   Members { records: Vec<Bytes> /* encoded SignedRecords, <= 256 */ },
//   Stage { shard: ShardId },                                  // body: the shard
//   Unstage { shards: Vec<ShardId> /* <= 4096 */ },            // a put was given up
//   Commit { operation: OperationId, indexes: Vec<u8> },       // body: the layout; the shard indexes that this holder keeps of each stripe
//   PutManifest { operation: OperationId },                    // body: the manifest
//   ReadShard { shard: ShardId },
//   ReadLayout { extent: ExtentId },
//   ReadManifest { object: ObjectId },
//   Describe { extents: Vec<ExtentId> /* <= 256 */ },
//   RemoveObject { object: ObjectId, secret: RemovalSecret },
//   RemoveExtents { extents: Vec<ExtentId> /* <= 4096 */, secret: RemovalSecret },
//   Recheck { shard: ShardId },                                // a reader got wrong bytes: a hint to verify it
// }
// pub enum Reply {
//   Done,                                    // with a body where bytes were asked for
//   Missing { positions: Vec<u16> },         // commit: shards of the layout (segment * n + index) that the holder does not have
//   Members { records: Vec<Bytes> },
//   Described { held: Vec<Option<Vec<u8>>> },// per extent: indexes held (every segment present), None: nothing known of that extent
//   Absent,                                  // proved: this node does not hold it
//   Removed,                                 // it was removed here (tombstone)
//   Failed { refusal: Refusal, text: String /* <= 256 bytes */ },
// }
// pub enum Refusal { Denied, Full, Busy, Corrupt, Unsupported, Invalid, Internal }  + Unknown(u16) for forward compat
// impl Request { pub fn encode(&self) -> Bytes; pub fn decode(head: &[u8]) -> Result<Self>; pub fn name(&self) -> &'static str }  same for Reply
