//! Frames: how a message lies on a stream.
//!
//! A frame is a header of 12 bytes (version, kind, flags, length of the head, length of the body; little-endian), the
//! head, the body. Lengths are checked before memory is taken, and memory grows with what was received.

use std::io;

use bytes::Bytes;
use datamesh_core::ports::{MAX_BODY_LEN, MAX_HEAD_LEN, Message};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::buffers::Buffers;
use super::limits::Limits;

/// Length of the header in bytes.
pub(crate) const HEADER_LEN: usize = 12;

/// The version of the frames.
const VERSION: u8 = 1;

/// Messages up to this size are written in one piece: one copy costs less than a second packet.
const ONE_PIECE: usize = 8 << 10;

/// Memory taken for a message before its bytes arrive; a shard of 256 KiB fits. Then it doubles.
pub(crate) const FIRST_STEP: usize = 288 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Reply,
    /// The handler gave no reply.
    GaveUp,
    /// The reply was over the limit for messages.
    TooLarge,
}

impl Kind {
    const ALL: [(u8, Self); 4] =
        [(1, Self::Request), (2, Self::Reply), (3, Self::GaveUp), (4, Self::TooLarge)];

    fn code(self) -> u8 {
        Self::ALL.into_iter().find(|(_, kind)| *kind == self).map_or(0, |(code, _)| code)
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == code).map(|(_, kind)| kind)
    }
}

/// What comes before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) head_len: usize,
    pub(crate) body_len: usize,
}

impl Header {
    /// The header of a message within the limits.
    pub(crate) fn of(kind: Kind, message: &Message) -> Self {
        Self { kind, head_len: message.head.len(), body_len: message.body.len() }
    }

    /// Length of the message in bytes.
    pub(crate) fn message_len(&self) -> usize {
        self.head_len.saturating_add(self.body_len)
    }

    /// Refuses a message that this node takes from nobody.
    pub(crate) fn check(&self, limits: &Limits) -> io::Result<()> {
        if limits.let_pass(self.head_len, self.body_len) {
            return Ok(());
        }
        Err(invalid(format!(
            "a message with a head of {} and a body of {} bytes",
            self.head_len, self.body_len
        )))
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let [a, b, c, d] = (self.head_len as u32).to_le_bytes();
        let [e, f, g, h] = (self.body_len as u32).to_le_bytes();
        bytes.copy_from_slice(&[VERSION, self.kind.code(), 0, 0, a, b, c, d, e, f, g, h]);
        bytes
    }

    /// Reads a header, and refuses what is unknown or over the limits.
    fn decode(bytes: [u8; HEADER_LEN]) -> io::Result<Self> {
        let [version, kind, flag_low, flag_high, a, b, c, d, e, f, g, h] = bytes;
        if version != VERSION || (flag_low, flag_high) != (0, 0) {
            return Err(invalid(format!("a frame of version {version}, this node knows {VERSION}")));
        }
        let kind = Kind::of(kind).ok_or_else(|| invalid(format!("a frame of the unknown kind {kind}")))?;
        let head_len = u32::from_le_bytes([a, b, c, d]) as usize;
        let body_len = u32::from_le_bytes([e, f, g, h]) as usize;
        let empty = matches!(kind, Kind::GaveUp | Kind::TooLarge);
        if head_len > MAX_HEAD_LEN || body_len > MAX_BODY_LEN || (empty && head_len + body_len > 0) {
            return Err(invalid(format!("a frame with a head of {head_len} and a body of {body_len} bytes")));
        }
        Ok(Self { kind, head_len, body_len })
    }
}

/// Writes a frame; the body is not copied into a larger buffer unless it is small.
pub(crate) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    kind: Kind,
    message: &Message,
) -> io::Result<()> {
    let header = Header::of(kind, message);
    let in_one_piece = header.message_len() <= ONE_PIECE;
    let mut start =
        Vec::with_capacity(HEADER_LEN + header.head_len + if in_one_piece { header.body_len } else { 0 });
    start.extend_from_slice(&header.encode());
    start.extend_from_slice(&message.head);
    if in_one_piece {
        start.extend_from_slice(&message.body);
    }
    stream.write_all(&start).await?;
    if !in_one_piece {
        stream.write_all(&message.body).await?;
    }
    stream.flush().await
}

/// Waits for a header; `None` when the stream ended before one began.
pub(crate) async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Header>> {
    match first_byte(stream).await? {
        Some(first) => rest_of_header(stream, first).await.map(Some),
        None => Ok(None),
    }
}

/// Waits for the first byte of a header; `None` when the stream ended before it.
pub(crate) async fn first_byte<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<u8>> {
    let mut first = [0; 1];
    let count = stream.read(&mut first).await?;
    let [first] = first;
    Ok((count > 0).then_some(first))
}

/// Reads a header after its first byte.
pub(crate) async fn rest_of_header<S: AsyncRead + Unpin>(stream: &mut S, first: u8) -> io::Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    let (start, rest) = bytes.split_at_mut(1);
    start.copy_from_slice(&[first]);
    stream.read_exact(rest).await?;
    Header::decode(bytes)
}

/// Reads the message after its header.
pub(crate) async fn read_message<S: AsyncRead + Unpin>(
    stream: &mut S,
    header: &Header,
    buffers: &Buffers,
) -> io::Result<Message> {
    let total = header.message_len();
    if total == 0 {
        return Ok(Message::default());
    }
    let mut lease = buffers.lease(total, FIRST_STEP);
    let mut filled = 0;
    while filled < total {
        let room = lease.grown_to(filled, total);
        let (_, free) = room.split_at_mut_checked(filled).ok_or_else(|| invalid("a short buffer".into()))?;
        match stream.read(free).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled = filled.saturating_add(count),
        }
    }
    let mut body: Bytes = lease.into_bytes(total);
    let head = body.split_to(header.head_len);
    Ok(Message { head, body })
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    #[test]
    fn frames_round_trip_whole() {
        let buffers = Buffers::default();
        for (head, body) in [(0, 0), (1, 0), (0, 1), (100, 8000), (100, 9000), (MAX_HEAD_LEN, MAX_BODY_LEN)] {
            let body: Vec<u8> = (0..body).map(|n| (n % 251) as u8).collect();
            let message = Message { head: vec![7; head].into(), body: body.into() };
            let mut stream = Cursor::new(Vec::new());
            block_on(write(&mut stream, Kind::Request, &message)).unwrap();
            stream.set_position(0);
            let header = block_on(read_header(&mut stream)).unwrap().unwrap();
            assert_eq!(header, Header::of(Kind::Request, &message));
            let read = block_on(read_message(&mut stream, &header, &buffers)).unwrap();
            assert!(read == message);
            assert_eq!(block_on(read_header(&mut stream)).unwrap(), None);
        }
    }

    #[test]
    fn the_header_is_these_bytes() {
        let message = Message { head: vec![1; 3].into(), body: vec![2; 0x0102].into() };
        let header = Header::of(Kind::Reply, &message);
        assert_eq!(header.encode(), [1, 2, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0]);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = [1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
        assert!(Header::decode(good).is_ok());
        for (at, value) in
            [(0, 2), (1, 0), (1, 5), (2, 1), (3, 1), (6, 0x20), (7, 0xff), (10, 0x50), (11, 0xff)]
        {
            let mut bad = good;
            bad[at] = value;
            assert!(Header::decode(bad).is_err(), "byte {at}");
        }
        assert!(Header::decode([1, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_promise_of_bytes_takes_little_memory() {
        let buffers = Buffers::default();
        let header = Header { kind: Kind::Request, head_len: 0, body_len: MAX_BODY_LEN };
        let error = block_on(read_message(&mut Cursor::new(vec![0; 10]), &header, &buffers)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(buffers.largest_lease() <= FIRST_STEP);
    }
}
