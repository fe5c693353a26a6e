//! The generator that HPKE draws its ephemeral key from.

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Gives out a seed's 32 bytes, and after them the BLAKE3 stream derived from it.
///
/// HPKE draws exactly the 32 bytes of keying material of its ephemeral key, which lets the vectors of
/// RFC 9180 run through the same code as everything else.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct SeedRng {
    seed: [u8; 32],
    given: u64,
}

impl SeedRng {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, given: 0 }
    }

    fn byte(&self, at: u64) -> u8 {
        let own = usize::try_from(at).ok().and_then(|at| self.seed.get(at));
        own.copied().unwrap_or_else(|| {
            let mut hasher = blake3::Hasher::new_derive_key("datamesh 2026 share v1 seed stream");
            hasher.update(&self.seed);
            let mut stream = hasher.finalize_xof();
            let mut byte = [0];
            stream.set_position(at);
            stream.fill(&mut byte);
            hasher.zeroize();
            stream.zeroize();
            let [byte] = byte;
            byte
        })
    }
}

impl TryRng for SeedRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = self.byte(self.given);
            self.given += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for SeedRng {}
