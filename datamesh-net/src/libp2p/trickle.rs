//! A connection on which Yamux's frames of a few bytes come no faster than a member needs them.
//!
//! Yamux keeps what nobody has read frame by frame, and each takes some 64 bytes beside its own: whoever sends single
//! bytes has a window of 256 KiB take 16 MiB. The frames that this node's peers send are longer, but for short replies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::io::AsyncRead;
use futures_timer::Delay;

use super::forward::forward_writes;

/// Bytes of a frame below which it is a small one: longer ones take at most three times their bytes.
const SMALL: u32 = 32;

/// Small frames that may come at once, and in a second: 64 bytes each are 1.3 MB a second.
const AT_ONCE: u32 = 20_000;
const PER_SECOND: u32 = 20_000;

/// How long is waited for some more.
const PAUSE: Duration = Duration::from_millis(10);

const HEADER_LEN: usize = 12;

/// A connection whose small frames are counted.
pub(super) struct Trickle<S> {
    inner: S,
    frames: Frames,
    /// Small frames that may come before a pause.
    left: u32,
    /// When there were last so many as may come at once, or more were allowed.
    since: Instant,
    pause: Option<Delay>,
}

impl<S> Trickle<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default(), left: AT_ONCE, since: Instant::now(), pause: None }
    }

    /// Allows what the time since the last look allows.
    fn refill(&mut self) {
        let (now, per_second) = (Instant::now(), u128::from(PER_SECOND));
        let allowed = (now - self.since).as_millis().saturating_mul(per_second) / 1000;
        self.left = u32::try_from(allowed).unwrap_or(u32::MAX).saturating_add(self.left).min(AT_ONCE);
        self.since = now;
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.left == 0 {
            self.refill();
            if self.left == 0 {
                ready!(self.pause.get_or_insert_with(|| Delay::new(PAUSE)).poll_unpin(context));
                self.pause = None;
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Trickle<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pause(context));
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let small = self.frames.small_in(buffer.get(..read).unwrap_or_default());
        self.left = self.left.saturating_sub(small);
        Poll::Ready(Ok(read))
    }
}

forward_writes!(Trickle, inner);

/// Where in a frame a connection is. What is no frame ends the connection elsewhere.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that have come, or all of them and the body is on its way.
    known: usize,
    body: u32,
}

impl Frames {
    /// How many small frames begin in these bytes: data with a body of a few bytes.
    fn small_in(&mut self, mut bytes: &[u8]) -> u32 {
        let mut small: u32 = 0;
        while !bytes.is_empty() {
            if self.body > 0 {
                let skipped = bytes.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
                self.body = self.body.saturating_sub(u32::try_from(skipped).unwrap_or(u32::MAX));
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let taken = bytes.len().min(HEADER_LEN.saturating_sub(self.known));
            let (head, rest) = bytes.split_at(taken);
            self.header.iter_mut().skip(self.known).zip(head).for_each(|(to, from)| *to = *from);
            self.known = self.known.saturating_add(taken);
            bytes = rest;
            if self.known == HEADER_LEN {
                self.known = 0;
                let [_, kind, _, _, _, _, _, _, a, b, c, d] = self.header;
                // Of other frames this is no length.
                self.body = if kind == 0 { u32::from_be_bytes([a, b, c, d]) } else { 0 };
                small = small.saturating_add(u32::from((1..SMALL).contains(&self.body)));
            }
        }
        small
    }
}

#[cfg(test)]
mod tests {
    use futures::io::{AsyncReadExt, Cursor};

    use super::*;

    fn frame(kind: u8, body: u32, sent: usize) -> Vec<u8> {
        let header = [&[0, kind, 0, 0, 0, 0, 0, 1][..], &body.to_be_bytes()].concat();
        [header, vec![0; sent]].concat()
    }

    #[test]
    fn small_frames_are_counted_however_they_are_cut() {
        let data = |len: u32| frame(0, len, len as usize);
        // A window update, a ping and one that goes away have no body.
        let others = [frame(1, 5, 0), frame(2, 7, 0), frame(3, 1, 0)].concat();
        let bytes = [data(1), others, data(SMALL - 1), data(SMALL), data(0), data(70_000), data(2)].concat();
        for step in [1, 5, 12, 13, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let small: u32 = bytes.chunks(step).map(|part| frames.small_in(part)).sum();
            assert_eq!(small, 3, "{step}");
        }
    }

    #[test]
    fn single_bytes_are_read_at_their_pace() {
        let few = frame(0, 1, 1).repeat(AT_ONCE as usize);
        let (mut at_once, mut paced) =
            (Trickle::new(Cursor::new(few.clone())), Trickle::new(Cursor::new(few)));
        let (mut buffer, began) = (vec![0; 13 * AT_ONCE as usize], Instant::now());
        futures::executor::block_on(at_once.read_exact(&mut buffer)).unwrap();
        assert_eq!((at_once.left, at_once.pause.is_some()), (0, false), "as many as may come at once");
        // A fifth of a second's, and none was left.
        (paced.left, paced.since) = (0, began);
        let mut read = 0;
        while read < 13 * PER_SECOND as usize / 5 {
            read += futures::executor::block_on(paced.read(&mut buffer[..130])).unwrap();
        }
        assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    }
}
