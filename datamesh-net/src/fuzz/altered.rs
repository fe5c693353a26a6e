//! A way between two ends on which somebody alters what passes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncWrite};

/// What is done to one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// These bits are turned; none is 0.
    Turned(u8),
    /// Neither it nor what follows arrives.
    Cut,
}

/// What is done to the bytes of one direction, by their places.
pub(crate) type Changes = BTreeMap<usize, Change>;

/// What three bytes each stand for: the direction, the place of a byte, and the bits that are turned; none cut the
/// stream there.
pub(crate) fn changes(data: &[u8]) -> [Changes; 2] {
    let mut both = [Changes::new(), Changes::new()];
    for [direction, place, bits] in data.as_chunks::<3>().0 {
        let [first, second] = &mut both;
        let one = if direction % 2 == 0 { first } else { second };
        one.insert((*place).into(), if *bits == 0 { Change::Cut } else { Change::Turned(*bits) });
    }
    both
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Way {
    changes: Changes,
    passed: VecDeque<u8>,
    closed: bool,
    waiting: Option<Waker>,
    /// How many bytes were sent, and how many were read.
    pub(crate) sent: usize,
    pub(crate) read: usize,
    /// The place of the first byte that did not arrive as it was sent.
    pub(crate) first_change: Option<usize>,
}

impl Way {
    /// What a stranger says who then hangs up.
    fn said(bytes: &[u8]) -> Self {
        Self { passed: bytes.iter().copied().collect(), closed: true, ..Self::default() }
    }

    fn send(&mut self, byte: u8) {
        let change = self.changes.get(&self.sent).copied();
        if change.is_some() && self.first_change.is_none() {
            self.first_change = Some(self.sent);
        }
        self.sent += 1;
        match change {
            Some(Change::Cut) => self.closed = true,
            Some(Change::Turned(bits)) if !self.closed => self.passed.push_back(byte ^ bits),
            None if !self.closed => self.passed.push_back(byte),
            _ => {}
        }
    }
}

/// One end: what it reads, and where it writes.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) inbound: Arc<Mutex<Way>>,
    pub(crate) outbound: Arc<Mutex<Way>>,
}

/// Both ends, with what is done to what the first one says, and the second.
pub(crate) fn pipe([first, second]: [Changes; 2]) -> [Pipe; 2] {
    let way = |changes| Arc::new(Mutex::new(Way { changes, ..Way::default() }));
    let (there, back) = (way(first), way(second));
    let far = Pipe { inbound: Arc::clone(&there), outbound: Arc::clone(&back) };
    [Pipe { inbound: back, outbound: there }, far]
}

impl Pipe {
    /// The end of a node to which a stranger says these bytes.
    pub(crate) fn to_stranger(bytes: &[u8]) -> Self {
        Self { inbound: Arc::new(Mutex::new(Way::said(bytes))), outbound: Arc::default() }
    }

    /// What passes each way: what this end reads, and what it writes.
    pub(crate) fn ways(&self) -> [Arc<Mutex<Way>>; 2] {
        [Arc::clone(&self.inbound), Arc::clone(&self.outbound)]
    }
}

pub(crate) fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut way = lock(&self.outbound);
        way.closed = true;
        if let Some(waker) = way.waiting.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.inbound);
        if way.passed.is_empty() && !way.closed {
            way.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = target.len().min(way.passed.len());
        target.iter_mut().zip(way.passed.drain(..count)).for_each(|(to, byte)| *to = byte);
        way.read += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.outbound);
        bytes.iter().for_each(|byte| way.send(*byte));
        if let Some(waker) = way.waiting.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
