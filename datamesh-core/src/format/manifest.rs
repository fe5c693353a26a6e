//! An object's root.
// pub enum Extents { Inline, Single(Layout), Many(Vec<ExtentId>) }   (Inline: data is in the sealed part)
// pub struct ManifestPublic { pub suite: SuiteId, pub code: CodeId, pub redundancy: Redundancy, pub segment_len: u32, pub salt: Salt,
//    pub commitment: KeyCommitment, pub removal: RemovalHash, pub extents: Extents }
// pub struct Header { pub len: u64, pub media_type: Option<String>, pub metadata: BTreeMap<String, String>, pub compressed: Option<..none yet..>, pub inline: Option<Bytes> }
//    Debug of Header must not print values? it is plaintext user data: print lengths only
// pub struct Manifest { pub public: ManifestPublic, /* private: encoded public bytes, sealed bytes */ }
// impl Manifest { pub fn seal(public: ManifestPublic, header: &Header, keys: &ObjectKeys, suite: &dyn CryptoSuite) -> Result<(ObjectId, Bytes)>;
//   pub fn decode(bytes: &[u8]) -> Result<Manifest>;  pub fn open(&self, keys: &ObjectKeys, suite: &dyn CryptoSuite) -> Result<Header> // checks suite id (Unsupported), commitment first (AccessDenied), then AEAD (Corrupt), len vs extents sanity
//   pub fn placement_of(&self, extent: u64) -> PlacementKey; pub fn sealed_header_len... }
// pub const MAX_MANIFEST_LEN: usize = 1 << 20; MAX_INLINE_LEN: usize = 16 << 10; MAX_METADATA_LEN: usize = 16 << 10 (media type, keys and values together)
