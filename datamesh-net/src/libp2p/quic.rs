//! What one connection over QUIC may take: there libp2p keeps to what it is told at the start.

use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::quic::Config;

use super::muxer::OTHER_STREAMS;
use crate::wire::limits::Limits;

/// How long a handshake may take: over UDP, silence is the only sign that nobody is there.
const HANDSHAKE: Duration = Duration::from_secs(5);

pub(super) fn config(keys: &Keypair, limits: &Limits) -> Config {
    let mut config = Config::new(keys);
    config.handshake_timeout = limits.handshake.min(HANDSHAKE);
    let streams = u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX);
    config.max_concurrent_stream_limit = streams.saturating_add(OTHER_STREAMS);
    let window = limits.window();
    config.max_connection_data = window;
    // Two streams that nobody reads are needed to fill it.
    config.max_stream_data = window / 2;
    config
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::future::{self, poll_fn};
    use futures::io::{AsyncReadExt, AsyncWriteExt};
    use futures::stream::StreamExt;
    use libp2p::Multiaddr;
    use libp2p::core::Endpoint;
    use libp2p::core::muxing::StreamMuxerExt as _;
    use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport as _, TransportEvent};
    use libp2p::quic::tokio::Transport as Quic;
    use libp2p::quic::{Connection, Stream};

    use super::*;

    const MIB: usize = 1 << 20;

    /// So much time is more than any of this takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn with(change: impl FnOnce(&mut Limits)) -> Config {
        let mut limits = Limits::default();
        change(&mut limits);
        config(&Keypair::generate_ed25519(), &limits)
    }

    #[test]
    fn the_streams_of_requests_and_some_others_are_taken() {
        for (of_requests, streams) in [(63, 95), (64, 96), (65, 97), (usize::MAX, u32::MAX)] {
            let config = with(|limits| limits.streams_per_connection = of_requests);
            assert_eq!(config.max_concurrent_stream_limit, streams);
        }
    }

    #[test]
    fn what_strangers_fill_is_their_part_within_bounds() {
        for (bytes, pending, window) in [
            (256 * MIB, 64, 4 * MIB),
            (64 * MIB - 1, 64, MIB),
            (64 * MIB, 64, MIB),
            (64 * (MIB + 1), 64, MIB + 1),
            (64 * (16 * MIB - 1), 64, 16 * MIB - 1),
            (64 * 16 * MIB, 64, 16 * MIB),
            (64 * (16 * MIB + 1), 64, 16 * MIB),
            (0, u32::MAX, MIB),
            (8 * MIB, 0, 8 * MIB),
            (usize::MAX, 1, 16 * MIB),
        ] {
            let config =
                with(|limits| (limits.bytes_in_total, limits.pending_connections) = (bytes, pending));
            let expected = u32::try_from(window).unwrap();
            assert_eq!(config.max_connection_data, expected, "{bytes} bytes for {pending}");
            assert_eq!(config.max_stream_data, expected / 2);
        }
    }

    /// Whatever is ready is seen to be: no poll is put off for the sake of other tasks.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let test = tokio::task::unconstrained(test);
        runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("it hangs") })
    }

    /// The two ends of a connection to a node that keeps to these limits: the node's and the peer's.
    async fn connection(ours: Config) -> (Connection, Connection) {
        let (mut ours, mut peer) = (Quic::new(ours).boxed(), Quic::new(with(|_| {})).boxed());
        ours.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let address: Multiaddr = loop {
            if let TransportEvent::NewAddress { listen_addr, .. } = ours.select_next_some().await {
                break listen_addr;
            }
        };
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = peer.dial(address, options).unwrap();
        let incoming = async {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = ours.select_next_some().await {
                    break upgrade.await.unwrap().1;
                }
            }
        };
        let (ours, peer) = future::join(incoming, dial).await;
        (ours, peer.unwrap().1)
    }

    /// Opens streams until the other end takes no more.
    async fn open_all(peer: &mut Connection) -> Vec<Stream> {
        let mut streams = Vec::new();
        while let Poll::Ready(stream) = futures::poll!(poll_fn(|context| peer.poll_outbound_unpin(context))) {
            streams.push(stream.unwrap());
        }
        streams
    }

    #[test]
    fn who_has_opened_all_streams_waits_until_one_ends() {
        for of_requests in [1, 63, 64, 65] {
            run(async {
                let config = with(|limits| limits.streams_per_connection = of_requests);
                let (mut ours, mut peer) = connection(config).await;
                let mut streams = open_all(&mut peer).await;
                assert_eq!(streams.len(), of_requests + OTHER_STREAMS as usize);
                // As many as make the node say that there is room again.
                let ended = streams.len() / 8 + 1;
                for mut stream in streams.drain(..ended) {
                    stream.write_all(b"the end").await.unwrap();
                    stream.close().await.unwrap();
                    let mut stream = poll_fn(|context| ours.poll_inbound_unpin(context)).await.unwrap();
                    stream.read_to_end(&mut Vec::new()).await.unwrap();
                    stream.close().await.unwrap();
                }
                streams.push(poll_fn(|context| peer.poll_outbound_unpin(context)).await.unwrap());
                streams.extend(open_all(&mut peer).await);
                assert_eq!(streams.len(), of_requests + OTHER_STREAMS as usize);
            });
        }
    }

    /// Writes until no more is taken; how much that was.
    async fn fill(stream: &mut Stream) -> usize {
        let (chunk, mut took) = ([7; 10_000], 0);
        while let Poll::Ready(count) = futures::poll!(stream.write(&chunk)) {
            took += count.unwrap();
        }
        took
    }

    #[test]
    fn who_has_filled_the_window_waits_until_it_is_read() {
        for window in [MIB, MIB + 2, 2 * MIB] {
            run(async {
                let config = with(|limits| limits.bytes_in_total = 64 * window);
                let (mut ours, mut peer) = connection(config).await;
                let mut streams = open_all(&mut peer).await;
                let took = future::join_all(streams.iter_mut().take(3).map(fill)).await;
                assert_eq!(took, [window / 2, window / 2, 0]);
                let mut first = poll_fn(|context| ours.poll_inbound_unpin(context)).await.unwrap();
                first.read_exact(&mut vec![0; window / 2]).await.unwrap();
                // What was read makes room for as much, told by eighths of the window.
                let told = window / 2 - window / 8;
                streams[2].write_all(&vec![7; told]).await.unwrap();
                let more = future::join_all(streams.iter_mut().skip(1).map(fill)).await;
                assert!(told + more.iter().sum::<usize>() <= window / 2, "{more:?}");
            });
        }
    }
}
