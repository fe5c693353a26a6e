//! An object's root.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::header::{Header, MAX_SEALED_LEN};
use crate::format::keys::{KeyCommitment, ObjectKeys, RemovalHash, Salt};
use crate::format::layout::{Layout, PlacementKey, read_redundancy, segments_per_extent, shard_len};
use crate::format::{MAX_OBJECT_LEN, SEGMENT_LEN_RANGE, TAG_LEN};
use crate::id::{ExtentId, ID_LEN, ObjectId};
use crate::ports::{CodeId, CryptoSuite, Redundancy, SuiteId};

/// The longest encoded manifest, in bytes.
pub const MAX_MANIFEST_LEN: usize = 1 << 20;

/// What a manifest's public part may need beside its extent ids, and its outer map, in bytes, rounded up.
const MANIFEST_OVERHEAD: usize = 1 << 10;

/// The most extents that a manifest can name and stay under [`MAX_MANIFEST_LEN`] with any header.
pub const MAX_EXTENTS: usize = (MAX_MANIFEST_LEN - MAX_SEALED_LEN - MANIFEST_OVERHEAD) / ID_LEN;

const WHAT: &str = "a manifest";

/// Where an object's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// In the manifest's own sealed part.
    Inline,
    /// In one extent, whose whole layout is here.
    Single(Layout),
    /// In these extents, in order; at least two.
    Many(Vec<ExtentId>),
}

/// What everyone who has the manifest can read of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPublic {
    /// The crypto suite.
    pub suite: SuiteId,
    /// The erasure code.
    pub code: CodeId,
    /// Data and parity shards of each stripe.
    pub redundancy: Redundancy,
    /// Length of every segment's plaintext but the last one's, in bytes.
    pub segment_len: u32,
    /// Random bytes of this object.
    pub salt: Salt,
    /// Says which read key opens the object.
    pub commitment: KeyCommitment,
    /// The hash of the secret that removes the object.
    pub removal: RemovalHash,
    /// Where the bytes are.
    pub extents: Extents,
}

impl ManifestPublic {
    /// What the holders of an extent, counted from 0, are ranked by.
    pub fn placement_of(&self, extent: u64) -> PlacementKey {
        PlacementKey::of_extent(&self.salt, extent)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(MANIFEST_OVERHEAD);
        writer.uint(1, u64::from(self.suite.0));
        writer.uint(2, u64::from(self.code.0));
        writer.uint(3, self.redundancy.data() as u64);
        writer.uint(4, self.redundancy.parity() as u64);
        writer.uint(5, u64::from(self.segment_len));
        writer.bytes(6, self.salt.as_bytes());
        writer.bytes(7, self.commitment.as_bytes());
        writer.bytes(8, self.removal.as_bytes());
        match &self.extents {
            Extents::Inline => {}
            Extents::Single(layout) => writer.bytes(9, &layout.encode()),
            Extents::Many(extents) => writer.names(10, extents.iter().map(ExtentId::as_bytes)),
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        const PART: &str = "a manifest's public part";
        let mut reader = Reader::open(bytes, MAX_MANIFEST_LEN, PART, ErrorKind::Corrupt, Unknown::Refuse)?;
        let public = Self {
            suite: SuiteId(reader.uint(1, "suite")?),
            code: CodeId(reader.uint(2, "code")?),
            redundancy: read_redundancy(&mut reader, 3, 4)?,
            segment_len: reader.uint(5, "segment length")?,
            salt: Salt::from_bytes(reader.array(6, "salt")?),
            commitment: KeyCommitment::from_bytes(reader.array(7, "key commitment")?),
            removal: RemovalHash::from_bytes(reader.array(8, "removal hash")?),
            extents: read_extents(&mut reader)?,
        };
        reader.finish()?;
        public.check().map_err(corrupt)?;
        if public.encode() != bytes {
            return Err(corrupt("its public part is not in its shortest form".into()));
        }
        Ok(public)
    }

    /// Checks the public part by itself; the text says what is wrong.
    fn check(&self) -> Result<(), String> {
        if !SEGMENT_LEN_RANGE.contains(&self.segment_len) {
            let (least, most) = (SEGMENT_LEN_RANGE.start(), SEGMENT_LEN_RANGE.end());
            return Err(format!("segments are {least} to {most} bytes, got {}", self.segment_len));
        }
        match &self.extents {
            Extents::Inline => Ok(()),
            Extents::Single(layout) => self.check_single(layout),
            Extents::Many(extents) if extents.len() < 2 => {
                Err(format!("an extent list has at least 2 extents, got {}", extents.len()))
            }
            Extents::Many(_) => Ok(()),
        }
    }

    fn check_single(&self, layout: &Layout) -> Result<(), String> {
        layout.check().map_err(|error| error.to_string())?;
        if layout.code != self.code || layout.redundancy != self.redundancy {
            return Err("the layout's code or redundancy is not the object's".into());
        }
        if layout.removal != self.removal {
            return Err("the layout's removal hash is not the object's".into());
        }
        if layout.placement != self.placement_of(0) {
            return Err("the layout's placement key is not that of the object's first extent".into());
        }
        Ok(())
    }

    /// Checks that the extents are those of an object of the header's length.
    fn check_header(&self, header: &Header) -> Result<(), String> {
        header.check()?;
        let expected = segment_count(header.len, self.segment_len);
        match (&self.extents, &header.inline) {
            (Extents::Inline, Some(data)) if data.len() as u64 == header.len => Ok(()),
            (Extents::Inline, Some(data)) => {
                Err(format!("it holds {} bytes of {} inline", data.len(), header.len))
            }
            (Extents::Inline, None) => Err("it has neither extents nor data".into()),
            (_, Some(_)) => Err("it has both extents and inline data".into()),
            (_, None) if header.len == 0 => Err("an empty object has no extents".into()),
            (Extents::Single(layout), None) => self.check_lengths(layout, header.len, expected),
            (Extents::Many(extents), None) => {
                let expected = expected.div_ceil(segments_per_extent(self.redundancy) as u64);
                let have = extents.len() as u64;
                if have == expected {
                    Ok(())
                } else {
                    Err(format!("{} bytes are {expected} extents, got {have}", header.len))
                }
            }
        }
    }

    /// Checks a single layout against the object's length of at least one byte.
    fn check_lengths(&self, layout: &Layout, len: u64, segments: u64) -> Result<(), String> {
        if u64::from(layout.segments) != segments {
            return Err(format!("{len} bytes are {segments} segments, got {}", layout.segments));
        }
        let full = self.segment_len as usize;
        let last = match len % u64::from(self.segment_len) {
            0 => full,
            rest => rest as usize,
        };
        let lengths_agree = layout.last_shard_len as usize == shard_len(last + TAG_LEN, self.redundancy)
            && (segments == 1 || layout.shard_len as usize == shard_len(full + TAG_LEN, self.redundancy));
        if lengths_agree {
            Ok(())
        } else {
            Err("the layout's shard lengths are not those of the object".into())
        }
    }
}

/// How many segments an object of `len` bytes has: none where it is empty.
pub fn segment_count(len: u64, segment_len: u32) -> u64 {
    len.div_ceil(u64::from(segment_len.max(1)))
}

/// An object's root: a public part, and a sealed part that a read key opens.
#[derive(Clone)]
pub struct Manifest {
    pub(crate) public: ManifestPublic,
    public_bytes: Bytes,
    sealed: Bytes,
}

impl Manifest {
    /// Seals a header, and returns the object's name with the encoded manifest.
    ///
    /// The keys must be fresh: each object has its own owner secret, and this is called once for it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for values that contradict each other, or keys that are not those of the
    /// commitment; [`ErrorKind::Unsupported`] when the suite is another; [`ErrorKind::LimitExceeded`]
    /// for metadata or inline data over their limits, or an object of too many extents.
    pub fn seal(
        public: ManifestPublic,
        header: &Header,
        keys: &ObjectKeys,
        suite: &dyn CryptoSuite,
    ) -> Result<(ObjectId, Bytes)> {
        check_suite(public.suite, suite)?;
        header.check_limits()?;
        check_extent_count(&public)?;
        let invalid = |why| Error::new(ErrorKind::InvalidInput, format!("{WHAT} cannot be made: {why}"));
        if !keys.opens(&public.commitment) {
            return Err(invalid("the commitment is not that of the keys".to_owned()));
        }
        public.check().and_then(|()| public.check_header(header)).map_err(invalid)?;
        let public_bytes = public.encode();
        let mut sealed = header.encode();
        let tag = keys.seal_header(suite, &public_bytes, &mut sealed)?;
        sealed.extend_from_slice(&tag);
        let mut writer = Writer::with_capacity(public_bytes.len() + sealed.len() + MANIFEST_OVERHEAD);
        writer.bytes(1, &public_bytes);
        writer.bytes(2, &sealed);
        let bytes = Bytes::from(writer.finish());
        Ok((ObjectId::of(&bytes), bytes))
    }

    /// Reads an encoded manifest. The caller has checked, or now checks, that the bytes hash to the object's name.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for malformed bytes and for values that contradict each other,
    /// [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(bytes, MAX_MANIFEST_LEN, WHAT, ErrorKind::Corrupt, Unknown::Refuse)?;
        let public_bytes = reader.bytes(1, "public part")?;
        let sealed = reader.bytes(2, "sealed part")?;
        reader.finish()?;
        if !(TAG_LEN..=MAX_SEALED_LEN).contains(&sealed.len()) {
            let text =
                format!("its sealed part is {TAG_LEN} to {MAX_SEALED_LEN} bytes, got {}", sealed.len());
            return Err(corrupt(text));
        }
        Ok(Self {
            public: ManifestPublic::decode(public_bytes)?,
            public_bytes: Bytes::copy_from_slice(public_bytes),
            sealed: Bytes::copy_from_slice(sealed),
        })
    }

    /// What everyone can read.
    pub fn public(&self) -> &ManifestPublic {
        &self.public
    }

    /// Length of the sealed part in bytes, tag included.
    pub fn sealed_len(&self) -> usize {
        self.sealed.len()
    }

    /// What the holders of an extent, counted from 0, are ranked by.
    pub fn placement_of(&self, extent: u64) -> PlacementKey {
        self.public.placement_of(extent)
    }

    /// Opens the sealed part: the suite is checked first, then the key commitment, then the tag, then that
    /// length and extents agree.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for another suite, [`ErrorKind::AccessDenied`] for keys of another
    /// object, [`ErrorKind::Corrupt`] when the sealed part fails its check or contradicts the public part.
    pub fn open(&self, keys: &ObjectKeys, suite: &dyn CryptoSuite) -> Result<Header> {
        check_suite(self.public.suite, suite)?;
        if !keys.opens(&self.public.commitment) {
            return Err(Error::new(ErrorKind::AccessDenied, "this capability does not open the object"));
        }
        let plain = keys.open_header(suite, &self.public_bytes, &self.sealed)?;
        let header = Header::decode(&plain)?;
        self.public.check_header(&header).map_err(corrupt)?;
        Ok(header)
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({:?}, sealed {} bytes)", self.public, self.sealed.len())
    }
}

fn read_extents(reader: &mut Reader<'_>) -> Result<Extents> {
    let single = if reader.has(9)? { Some(Layout::decode(reader.bytes(9, "layout")?)?) } else { None };
    let many = if reader.has(10)? {
        Some(reader.names(10, "extent ids", MAX_EXTENTS, ExtentId::from_bytes)?)
    } else {
        None
    };
    match (single, many) {
        (None, None) => Ok(Extents::Inline),
        (Some(layout), None) => Ok(Extents::Single(layout)),
        (None, Some(extents)) => Ok(Extents::Many(extents)),
        (Some(_), Some(_)) => Err(reader.malformed("it has both a layout and an extent list")),
    }
}

fn check_suite(named: SuiteId, suite: &dyn CryptoSuite) -> Result<()> {
    if named == suite.id() {
        return Ok(());
    }
    let text = format!("the object needs crypto suite {}, this mesh has suite {}", named.0, suite.id().0);
    Err(Error::new(ErrorKind::Unsupported, text))
}

fn check_extent_count(public: &ManifestPublic) -> Result<()> {
    match &public.extents {
        Extents::Many(extents) if extents.len() > MAX_EXTENTS => Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "a manifest names at most {MAX_EXTENTS} extents, got {}; use longer segments",
                extents.len()
            ),
        )),
        _ => Ok(()),
    }
}

fn corrupt(why: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{WHAT} contradicts itself: {why}"))
}

const _: () = assert!(MAX_OBJECT_LEN < u64::MAX, "segment counts are computed without overflow");
