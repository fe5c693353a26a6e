//! Noise over a buffered connection.
//!
//! Noise reads its connection 8 KiB at a time: without a buffer in between that is one system call each, and for
//! bulk they cost as much as the cipher.

use futures::io::{AsyncRead, AsyncWrite, BufReader};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::noise;

/// What one read of the socket brings at most: a quarter of a usual shard.
const READ_LEN: usize = 64 << 10;

/// The Noise handshake and cipher, with a buffer below it.
#[derive(Clone)]
pub(super) struct Buffered(pub(super) noise::Config);

impl UpgradeInfo for Buffered {
    type Info = <noise::Config as UpgradeInfo>::Info;
    type InfoIter = <noise::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<T> InboundConnectionUpgrade<T> for Buffered
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = <noise::Config as InboundConnectionUpgrade<BufReader<T>>>::Output;
    type Error = noise::Error;
    type Future = <noise::Config as InboundConnectionUpgrade<BufReader<T>>>::Future;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(BufReader::with_capacity(READ_LEN, socket), info)
    }
}

impl<T> OutboundConnectionUpgrade<T> for Buffered
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = <noise::Config as OutboundConnectionUpgrade<BufReader<T>>>::Output;
    type Error = noise::Error;
    type Future = <noise::Config as OutboundConnectionUpgrade<BufReader<T>>>::Future;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(BufReader::with_capacity(READ_LEN, socket), info)
    }
}
