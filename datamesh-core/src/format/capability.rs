//! What a user needs to act on an object.
// pub enum Access { Own, Read, Verify } (Display lower case; Ord: Verify < Read < Own)
// pub struct Capability: Clone, PartialEq (constant time), Debug redacted ("Capability(own, <short id>)"), wiped on drop
// impl Capability { pub fn own(object: ObjectId, secret: OwnerSecret) -> Self; pub fn read(object, ReadKey); pub fn verify(object);
//   pub fn object(&self) -> ObjectId; pub fn access(&self) -> Access; pub fn to_read(&self) -> Result<Capability> (AccessDenied from verify); pub fn to_verify(&self) -> Capability;
//   pub fn read_key(&self) -> Result<ReadKey> (AccessDenied); pub fn removal_secret(&self) -> Result<RemovalSecret> (AccessDenied);
//   pub fn to_text(&self) -> Zeroizing<String>  // no Display: secrets never by accident;  FromStr;  to_bytes/from_bytes (for sealing to a recipient) }
// text: "dmo1" | "dmr1" | "dmv1" + base32(id | secret | 4-byte checksum); From<&Capability> for Capability
