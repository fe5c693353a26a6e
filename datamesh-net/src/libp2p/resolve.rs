//! DNS names in addresses, looked up when they are dialled.
//!
//! The system's own resolver is asked, so that names mean what they mean to every other program on the machine.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use tokio::sync::Semaphore;

/// Of the addresses of one name so many are tried, one after another.
const MAX_TRIED: usize = 8;

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
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("no address of {}", name.text));
    let lookup = async move {
        let found = tokio::net::lookup_host((name.text, 0)).await?;
        Ok(found.map(|socket| socket.ip()).filter(name.is_wanted).take(MAX_TRIED).collect::<Vec<_>>())
    };
    for ip in in_turn(lookups, lookup).await? {
        let Some(address) = address.replace(0, |_| Some(ip.into())) else { continue };
        // The lock is not held while the dial goes on.
        let dial = lock(&inner).dial(address, options);
        let dialled = match dial {
            Ok(dial) => dial.await,
            Err(TransportError::Other(error)) => Err(error),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        match dialled {
            Ok(connection) => return Ok(connection),
            Err(error) => failed = error,
        }
    }
    Err(failed)
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
    use std::time::Duration;

    use futures::channel::oneshot;
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
}
