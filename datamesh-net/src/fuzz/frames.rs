//! Frames, as they come on a stream.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use datamesh_core::ports::{MAX_BODY_LEN, MAX_HEAD_LEN};
use futures::executor::block_on;
use futures::io::{AsyncRead, Cursor};

use crate::wire::buffers::Buffers;
use crate::wire::frame::{self, FIRST_STEP, HEADER_LEN, Kind};
use crate::wire::limits::Limits;

/// Frames, one after another.
///
/// The first byte says in pieces of which length the bytes come, the second how many zeros follow them, so that long
/// messages come to their end.
///
/// # Panics
/// Where a frame over the limits is taken, where memory is taken for bytes that have not come, or where what was read
/// is written as other bytes.
pub fn frames(data: &[u8]) {
    let Some((&[piece, zeros], bytes)) = data.split_first_chunk::<2>() else { return };
    let piece = 1 << (piece % 16);
    let mut stream = Trickle { bytes, piece, zeros: usize::from(zeros) << 15, given: Vec::new() };
    // What a node takes that was given lower limits.
    let strict = Limits { head_bytes: 100, body_bytes: 1000, ..Limits::default() };
    loop {
        stream.given.clear();
        let Ok(Some(header)) = block_on(frame::read_header(&mut stream)) else { return };
        let (head, body) = (header.head_len, header.body_len);
        assert!(head <= MAX_HEAD_LEN && body <= MAX_BODY_LEN, "a frame over the limits is taken");
        assert!(header.check(&strict).is_ok() == (head <= 100 && body <= 1000), "lower limits do not hold");
        assert!(
            matches!(header.kind, Kind::Request | Kind::Reply) || head + body == 0,
            "a message of nothing"
        );
        let buffers = Buffers::default();
        let message = match block_on(frame::read_message(&mut stream, &header, &buffers)) {
            Ok(message) => message,
            Err(error) => {
                assert!(error.kind() == ErrorKind::UnexpectedEof && stream.is_over(), "a frame is given up");
                return;
            }
        };
        assert!((message.head.len(), message.body.len()) == (head, body), "a message has other lengths");
        let mut written = Cursor::new(Vec::new());
        assert!(block_on(frame::write(&mut written, header.kind, &message)).is_ok(), "memory takes all");
        assert!(written.into_inner() == stream.given, "a frame has two encodings");
        // Once more, into a buffer that was used.
        let copy = (message.head.to_vec(), message.body.to_vec());
        drop(message);
        let again = block_on(frame::read_message(
            &mut stream.given.get(HEADER_LEN..).unwrap_or_default(),
            &header,
            &buffers,
        ));
        let again = again.map(|message| (message.head.to_vec(), message.body.to_vec()));
        assert!(again.ok() == Some(copy), "a used buffer changes what is read");
    }
}

/// Bytes that come in pieces, and zeros after them.
struct Trickle<'d> {
    bytes: &'d [u8],
    piece: usize,
    zeros: usize,
    /// What came since the frame began.
    given: Vec<u8>,
}

impl Trickle<'_> {
    fn is_over(&self) -> bool {
        self.bytes.is_empty() && self.zeros == 0
    }
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let filled = self.given.len().saturating_sub(HEADER_LEN);
        let taken = filled + room.len();
        assert!(taken <= FIRST_STEP.max(2 * filled), "{taken} bytes are taken when {filled} came");
        let count = if self.bytes.is_empty() {
            let count = self.zeros.min(room.len());
            self.zeros -= count;
            room.iter_mut().take(count).for_each(|byte| *byte = 0);
            count
        } else {
            let count = self.piece.min(room.len()).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(count);
            room.iter_mut().zip(now).for_each(|(to, byte)| *to = *byte);
            self.bytes = later;
            count
        };
        self.given.extend(room.iter().take(count));
        Poll::Ready(Ok(count))
    }
}
