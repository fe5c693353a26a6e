//! DNS names in addresses, looked up when they are dialled.
//!
//! The system's own resolver is asked, so that names mean what they mean to every other program on the machine.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use tokio::sync::Semaphore;

/// Of the addresses of one name so many are tried.
const MAX_TRIED: usize = 8;

/// The next of them is tried beside the others when these have not answered for so long (RFC 8305): where nobody answers
/// at the first, the dial's time would be over before the second had its turn.
const HEAD_START: Duration = Duration::from_millis(250);

/// Lookups at the same time. Each takes a thread until the system's resolver has answered, which may be long after
/// the dial was given up.
const MAX_LOOKUPS: usize = 16;

/// A transport that also dials addresses which begin with a DNS name.
pub(super) struct Resolving<T> {
    inner: Arc<Mutex<T>>,
    lookups: Arc<Semaphore>,
}

impl<T> Resolving<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl<T> Transport for Resolving<T>
where
    T: Transport<Error = io::Error> + Send + Unpin + 'static,
    T::Dial: Send,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<T::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        lock(&self.inner).listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        lock(&self.inner).remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(name) = name_of(&address) else {
            return lock(&self.inner).dial(address, options).map(FutureExt::boxed);
        };
        let (inner, lookups) = (Arc::clone(&self.inner), Arc::clone(&self.lookups));
        Ok(dial_name(inner, lookups, name, address, options).boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut *lock(&self.inner)).poll(cx)
    }
}

fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a name may stand for.
struct Name {
    text: String,
    is_wanted: fn(&IpAddr) -> bool,
}

fn name_of(address: &Multiaddr) -> Option<Name> {
    let (text, is_wanted): (_, fn(&IpAddr) -> bool) = match address.iter().next()? {
        Protocol::Dns(text) => (text, |_| true),
        Protocol::Dns4(text) => (text, IpAddr::is_ipv4),
        Protocol::Dns6(text) => (text, IpAddr::is_ipv6),
        _ => return None,
    };
    Some(Name { text: text.into_owned(), is_wanted })
}

async fn dial_name<T>(
    inner: Arc<Mutex<T>>,
    lookups: Arc<Semaphore>,
    name: Name,
    address: Multiaddr,
    options: DialOpts,
) -> io::Result<T::Output>
where
    T: Transport<Error = io::Error>,
{
    let unknown = io::Error::new(io::ErrorKind::NotFound, format!("no address of {}", name.text));
    let lookup = async move {
        let found = tokio::net::lookup_host((name.text, 0)).await?;
        Ok(found.map(|socket| socket.ip()).filter(name.is_wanted).take(MAX_TRIED).collect::<Vec<_>>())
    };
    let found = in_turn(lookups, lookup).await?;
    let addresses = found.into_iter().filter_map(|ip| address.replace(0, |_| Some(ip.into()))).collect();
    dial_first(&inner, addresses, options, unknown).await
}

/// The first connection to one of these addresses; the other dials are given up. Where none comes about, why the last
/// one did not.
async fn dial_first<T>(
    inner: &Mutex<T>,
    addresses: Vec<Multiaddr>,
    options: DialOpts,
    mut failed: io::Error,
) -> io::Result<T::Output>
where
    T: Transport<Error = io::Error>,
{
    let mut left = addresses.into_iter();
    let mut begun = FuturesUnordered::new();
    loop {
        if let Some(address) = left.next() {
            // The lock is not held while the dial goes on.
            let dial = lock(inner).dial(address, options);
            begun.push(async {
                match dial {
                    Ok(dial) => dial.await,
                    Err(TransportError::Other(error)) => Err(error),
                    Err(error) => Err(io::Error::other(error.to_string())),
                }
            });
        }
        let ended = if left.len() > 0 {
            tokio::time::timeout(HEAD_START, begun.next()).await
        } else {
            Ok(begun.next().await)
        };
        match ended {
            Ok(Some(Ok(connection))) => return Ok(connection),
            Ok(Some(Err(error))) => failed = error,
            Ok(None) => return Err(failed),
            // The next one is tried beside those under way.
            Err(_) => {}
        }
    }
}

/// Looks something up when there is room, and keeps the place until that has ended, whoever still waits for it.
async fn in_turn<F>(lookups: Arc<Semaphore>, lookup: F) -> F::Output
where
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let place = lookups.acquire_owned().await.map_err(io::Error::other)?;
    let lookup = async move {
        let found = lookup.await;
        drop(place);
        found
    };
    tokio::spawn(lookup).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures::channel::oneshot;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_lookup_that_nobody_waits_for_keeps_its_place_until_it_has_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lookups = Arc::new(Semaphore::new(1));
            let (end, ended) = oneshot::channel::<()>();
            let slow = in_turn(Arc::clone(&lookups), async move {
                let _ = ended.await;
                Ok(Vec::new())
            });
            assert!(timeout(Duration::from_millis(10), slow).await.is_err());
            let mut next = Box::pin(in_turn(lookups, async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) }));
            assert!(timeout(Duration::from_millis(30), &mut next).await.is_err());
            drop(end);
            assert_eq!(next.await.unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        });
    }

    /// Answers at ports from 10 on, fails at once below, and never answers at port 1.
    #[derive(Default)]
    struct Answers(Vec<u16>);

    impl Transport for Answers {
        type Output = u16;
        type Error = io::Error;
        type ListenerUpgrade = BoxFuture<'static, io::Result<u16>>;
        type Dial = BoxFuture<'static, io::Result<u16>>;

        fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
            let Some(Protocol::Tcp(port)) = address.iter().last() else {
                return Err(TransportError::MultiaddrNotSupported(address));
            };
            self.0.push(port);
            Ok(match port {
                1 => futures::future::pending().boxed(),
                ..10 => futures::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
                _ => futures::future::ready(Ok(port)).boxed(),
            })
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
            Poll::Pending
        }
    }

    /// The addresses' ports, those that are dialled, and what comes of it.
    type Case = (&'static [u16], &'static [u16], Result<u16, io::ErrorKind>);

    #[test]
    fn an_address_that_never_answers_does_not_hide_the_next() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
            let table: [Case; 5] = [
                (&[1, 11, 12], &[1, 11], Ok(11)),
                (&[1, 2, 1, 12], &[1, 2, 1, 12], Ok(12)),
                (&[11, 1], &[11], Ok(11)),
                (&[2, 3], &[2, 3], Err(io::ErrorKind::ConnectionRefused)),
                (&[], &[], Err(io::ErrorKind::NotFound)),
            ];
            for (ports, dialled, expected) in table {
                let addresses =
                    ports.iter().map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap());
                let inner = Mutex::new(Answers::default());
                let unknown = io::ErrorKind::NotFound.into();
                let first = dial_first(&inner, addresses.collect(), options, unknown);
                let first = timeout(Duration::from_secs(5), first).await.unwrap();
                assert_eq!(first.map_err(|error| error.kind()), expected, "{ports:?}");
                assert_eq!(lock(&inner).0, dialled);
            }
        });
    }
}
