//! Erasure codes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// The registered number of an erasure code; it goes into every layout.
///
/// 1 is Reed-Solomon over GF(2^16) as reed-solomon-simd 3 computes it. Numbers from 0x8000 up are for
/// codes of an application's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeId(pub u16);

impl CodeId {
    /// Reed-Solomon over GF(2^16) (Leopard), as reed-solomon-simd 3 computes it.
    pub const REED_SOLOMON_16: Self = Self(1);
}

/// The most data or parity shards a stripe may have.
pub const MAX_SHARDS_OF_A_KIND: u8 = 128;

/// How many data shards (k) and parity shards (m) each stripe has; written `4+2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Redundancy {
    data: u8,
    parity: u8,
}

impl Redundancy {
    /// 4+2: any two of six shards may be lost, for half as much again in space.
    pub const STANDARD: Self = Self { data: 4, parity: 2 };
    /// 10+4: any four of fourteen shards may be lost, for 1.4 times the space.
    pub const WIDE: Self = Self { data: 10, parity: 4 };
    /// 1+0: no redundancy at all.
    pub const NONE: Self = Self { data: 1, parity: 0 };

    /// k data and m parity shards.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] unless k is 1 to 128 and m is 0 to 128.
    pub fn new(data: u8, parity: u8) -> Result<Self> {
        if data == 0 || data > MAX_SHARDS_OF_A_KIND || parity > MAX_SHARDS_OF_A_KIND {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "redundancy {data}+{parity} is out of range; data shards are 1 to 128, parity shards 0 to 128"
                ),
            ));
        }
        Ok(Self { data, parity })
    }

    /// k: the data shards of a stripe, and how many shards a reader needs.
    pub const fn data(self) -> usize {
        self.data as usize
    }

    /// m: the parity shards of a stripe, and how many shards may be lost.
    pub const fn parity(self) -> usize {
        self.parity as usize
    }

    /// n = k + m: all shards of a stripe.
    pub const fn total(self) -> usize {
        self.data as usize + self.parity as usize
    }
}

impl Default for Redundancy {
    fn default() -> Self {
        Self::STANDARD
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl FromStr for Redundancy {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('+').and_then(|(k, m)| Some((k.parse().ok()?, m.parse().ok()?)));
        let (data, parity) = parts.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("redundancy is written like 4+2, got {text:?}"))
        })?;
        Self::new(data, parity)
    }
}

/// A systematic erasure code: k data shards in, m parity shards out, and back from any k of them.
///
/// # Contract
/// 1. The code MUST be systematic and deterministic: the same data, k and m give the same parity, bit
///    for bit, on every machine and in every version that carries the same [`id`](Self::id).
/// 2. From any k distinct shards of a stripe `reconstruct` MUST restore every data shard exactly.
/// 3. It works on columns: cutting all shards at the same multiple of [`alignment`](Self::alignment)
///    and coding the pieces apart MUST give the same bytes.
/// 4. m = 0 MUST be accepted: `encode` then does nothing, and `reconstruct` succeeds when nothing is missing.
/// 5. Wrong counts, unequal lengths, lengths off the alignment and fewer than k shards MUST be
///    [`ErrorKind::InvalidInput`], never a panic. The code need not detect altered shards: callers
///    verify every shard first.
/// 6. Calls MUST be possible from many threads at once.
///
/// The conformance suite is `datamesh_core::testing::erasure` (feature `testing`).
pub trait ErasureCode: fmt::Debug + Send + Sync + 'static {
    /// The registered number.
    fn id(&self) -> CodeId;

    /// Every shard's length is a multiple of this many bytes. It must divide 64.
    fn alignment(&self) -> usize;

    /// Whether this code can do k + m.
    fn supports(&self, redundancy: Redundancy) -> bool;

    /// Builds tables ahead of the first use; called once when a mesh opens.
    fn warm_up(&self) {}

    /// Computes the parity shards of a stripe into `parity`.
    ///
    /// `data` has k and `parity` has m slices, all of one length.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for wrong counts or lengths.
    fn encode(&self, redundancy: Redundancy, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<()>;

    /// Restores the data shards that are missing.
    ///
    /// `shards` has k + m entries, data first, `None` where a shard is missing. `restored` has one
    /// buffer for each missing data shard, in ascending order of index.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for wrong counts or lengths, or fewer than k shards.
    fn reconstruct(
        &self,
        redundancy: Redundancy,
        shards: &[Option<&[u8]>],
        restored: &mut [&mut [u8]],
    ) -> Result<()>;
}
