//! Noise over a buffered connection: with the mesh key mixed in for members, and plain for strangers that are greeted.
//!
//! Noise reads its connection 8 KiB at a time: without a buffer in between that is one system call each, and for
//! bulk they cost as much as the cipher.

use std::future::ready;
use std::pin::Pin;

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite, BufReader};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::{PeerId, noise};

/// What one read of the socket brings at most: a quarter of a usual shard.
const READ_LEN: usize = 64 << 10;

/// The name of the handshake that needs the mesh key. The plain one has libp2p's own name, so that a stranger is
/// turned away before anything is computed for it.
const PRIVATE: &str = "/noise/private";
const PLAIN: &str = "/noise";

/// The Noise handshake and cipher, with a buffer below it.
#[derive(Clone)]
pub(super) struct Buffered {
    pub(super) private: noise::Config,
    /// The handshake for strangers; they are only answered.
    pub(super) plain: Option<noise::Config>,
}

impl UpgradeInfo for Buffered {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<&'static str>, std::option::IntoIter<&'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PRIVATE).chain(self.plain.as_ref().map(|_| PLAIN))
    }
}

type Output<T> = (PeerId, noise::Output<BufReader<T>>);
type Handshake<T> = Pin<Box<dyn Future<Output = Result<Output<T>, noise::Error>> + Send>>;

impl<T> InboundConnectionUpgrade<T> for Buffered
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Output<T>;
    type Error = noise::Error;
    type Future = Handshake<T>;

    fn upgrade_inbound(self, socket: T, name: Self::Info) -> Self::Future {
        let noise = if name == PLAIN { self.plain } else { Some(self.private) };
        match noise {
            Some(noise) => noise.upgrade_inbound(BufReader::with_capacity(READ_LEN, socket), PLAIN),
            None => ready(Err(noise::Error::AuthenticationFailed)).boxed(),
        }
    }
}

impl<T> OutboundConnectionUpgrade<T> for Buffered
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Output<T>;
    type Error = noise::Error;
    type Future = Handshake<T>;

    fn upgrade_outbound(self, socket: T, name: Self::Info) -> Self::Future {
        if name == PLAIN {
            // Whoever takes the plain handshake only is no member.
            return ready(Err(noise::Error::AuthenticationFailed)).boxed();
        }
        self.private.upgrade_outbound(BufReader::with_capacity(READ_LEN, socket), PLAIN)
    }
}
