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

    /// The code for a mesh of this many nodes of which any third may be hostile: with f = floor(nodes / 3) it is
    /// nodes - 2f data and 2f parity shards, one for each node; 2+4 for 6 nodes, 3+6 for 9, 4+6 for 10.
    ///
    /// A put then succeeds while f nodes do not answer, and its object can be read although f of those that
    /// acknowledged give nothing back: of nodes - f shards nodes - 2f remain, which is k.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for fewer than 3 nodes, among which not one may be hostile, and for more than 194,
    /// which need more than 128 parity shards.
    pub fn byzantine(nodes: usize) -> Result<Self> {
        let refuse = || {
            let text = format!("a third of {nodes} nodes cannot be allowed for; give 3 to 194 nodes");
            Error::new(ErrorKind::InvalidInput, text)
        };
        let hostile = nodes / 3;
        let data = nodes - 2 * hostile;
        match (u8::try_from(data), u8::try_from(2 * hostile)) {
            (Ok(data), Ok(parity @ 1..=MAX_SHARDS_OF_A_KIND)) => Self::new(data, parity),
            _ => Err(refuse()),
        }
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

    /// Reads `4+2`, or the name of a preset: `standard`, `wide`, `none`, `byzantine(9)`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "standard" => return Ok(Self::STANDARD),
            "wide" => return Ok(Self::WIDE),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let nodes = text.strip_prefix("byzantine(").and_then(|rest| rest.strip_suffix(')'));
        if let Some(nodes) = nodes.and_then(|nodes| nodes.parse().ok()) {
            return Self::byzantine(nodes);
        }
        let parts = text.split_once('+').and_then(|(k, m)| Some((k.parse().ok()?, m.parse().ok()?)));
        let (data, parity) = parts.ok_or_else(|| {
            let text =
                format!("redundancy is written like 4+2, standard, wide or byzantine(9), got {text:?}");
            Error::new(ErrorKind::InvalidInput, text)
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

    /// Gives back working space that no call has used since the last time; called about every ten seconds.
    fn trim(&self) {}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn code(data: u8, parity: u8) -> Redundancy {
        Redundancy::new(data, parity).unwrap()
    }

    #[test]
    fn a_third_may_be_hostile() {
        let table = [(6, 2, 4), (7, 3, 4), (9, 3, 6), (10, 4, 6), (12, 4, 8), (15, 5, 10), (194, 66, 128)];
        for (nodes, data, parity) in table {
            assert_eq!(Redundancy::byzantine(nodes).unwrap(), code(data, parity), "{nodes} nodes");
        }
        for nodes in (3..=194).chain([0, 1, 2, 195, 300, 384, 1 << 40, usize::MAX]) {
            let preset = Redundancy::byzantine(nodes);
            assert_eq!(preset.is_ok(), (3..=194).contains(&nodes), "{nodes} nodes");
            let Ok(preset) = preset else { continue };
            assert_eq!((preset.total(), preset.parity()), (nodes, nodes / 3 * 2));
        }
    }

    #[test]
    fn names_and_figures_are_read() {
        let good = [
            ("4+2", Redundancy::STANDARD),
            ("standard", Redundancy::STANDARD),
            ("wide", Redundancy::WIDE),
            ("none", Redundancy::NONE),
            ("byzantine(9)", code(3, 6)),
        ];
        for (text, expected) in good {
            assert_eq!(text.parse::<Redundancy>().unwrap(), expected, "{text}");
        }
        for text in ["", "4", "4+", "0+2", "4+200", "Standard", "byzantine", "byzantine(2)", "byzantine(-1)"]
        {
            assert_eq!(text.parse::<Redundancy>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
