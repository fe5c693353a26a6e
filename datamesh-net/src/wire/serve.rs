//! The other end of a pooled stream: reads requests, hands them over, writes the replies.

use std::future::Future;
use std::io;
use std::sync::Arc;

use datamesh_core::ports::{Inbound, Message, ReplySender};
use futures::future::{self, Either};
use futures::io::AsyncReadExt;

use super::Stream;
use super::budget;
use super::frame::{self, Header, Kind};
use super::limits::Limits;
use super::paced::Paced;
use super::peers::{Peer, Shared};

/// Serves one stream to its end. `_counted` is dropped with the task.
pub(crate) async fn stream(shared: Arc<Shared>, peer: Arc<Peer>, mut stream: Stream, _counted: Arc<()>) {
    loop {
        match request(&shared, &peer, &mut stream).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(node = %peer.node, %error, "a stream of a peer ended early");
                break;
            }
        }
    }
}

/// Serves one request; whether the stream goes on.
async fn request(shared: &Shared, peer: &Peer, stream: &mut Stream) -> io::Result<bool> {
    let idle = shared.limits.idle;
    let Ok(header) = tokio::time::timeout(idle, frame::first_byte(stream)).await else { return Ok(false) };
    let Some(first) = header? else { return Ok(false) };
    let limits = &shared.limits;
    let mut rest = Paced::new(stream, limits, frame::HEADER_LEN);
    let header = frame::rest_of_header(&mut rest, first).await?;
    header.check(limits)?;
    if header.kind != Kind::Request {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply where a request was due"));
    }
    let budgets = [&peer.bytes.requests_received, &shared.bytes.requests_received];
    let _bytes = in_grace(limits, budget::take(budgets, header.message_len())).await?;
    let mut sent = Paced::new(stream, limits, header.message_len());
    let message = frame::read_message(&mut sent, &header, &shared.buffers).await?;
    let _handled = peer.requests.acquire().await.map_err(io::Error::other)?;
    let budgets = [&peer.bytes.replies_sent, &shared.bytes.replies_sent];
    // Whoever does not read its replies has no more of them made: this waits while any reply waits for room. Where that
    // is the fault of others, one at a time is made nevertheless, for it may be a small one.
    let turn = in_grace(limits, budget::turn(budgets)).await?;
    let Some((kind, reply)) = answer(shared, peer, stream, message).await? else { return Ok(false) };
    let bytes = Header::of(kind, &reply).message_len();
    let (turn, _waits) = match turn {
        // A large one waits without what is kept for small ones, and one at a time.
        Some(_kept) if bytes > budget::SMALL => match peer.waits.try_acquire() {
            Ok(waits) => (None, Some(waits)),
            Err(_) => return gives_up(stream, limits).await,
        },
        turn => (turn, None),
    };
    let _bytes = match turn {
        Some(kept) => (Some(kept), None),
        None => (None, Some(in_grace(limits, budget::take(budgets, bytes)).await?)),
    };
    let bytes = bytes.saturating_add(frame::HEADER_LEN);
    frame::write(&mut Paced::new(stream, limits, bytes), kind, &reply).await?;
    Ok(true)
}

/// Says that a request is not answered; the stream goes on.
async fn gives_up(stream: &mut Stream, limits: &Limits) -> io::Result<bool> {
    let mut paced = Paced::new(stream, limits, frame::HEADER_LEN);
    frame::write(&mut paced, Kind::GaveUp, &Message::default()).await.map(|()| true)
}

/// Hands a request over and waits for its reply; `None` when the caller went away first.
async fn answer(
    shared: &Shared,
    peer: &Peer,
    stream: &mut Stream,
    message: Message,
) -> io::Result<Option<(Kind, Message)>> {
    let work = std::pin::pin!(async {
        let (reply, answer) = ReplySender::pair();
        let inbound = Inbound { from: peer.node, message, reply };
        if shared.inbound.0.send(inbound).await.is_err() {
            return (Kind::GaveUp, Message::default());
        }
        match answer.await {
            Ok(reply) if shared.limits.let_pass(reply.head.len(), reply.body.len()) => (Kind::Reply, reply),
            Ok(_) => (Kind::TooLarge, Message::default()),
            Err(_) => (Kind::GaveUp, Message::default()),
        }
    });
    // The caller says nothing until it has its reply: whatever is read now ends the stream.
    let mut unexpected = [0; 1];
    match future::select(work, stream.read(&mut unexpected)).await {
        Either::Left((reply, _)) => Ok(Some(reply)),
        Either::Right((Ok(0) | Err(_), _)) => Ok(None),
        Either::Right((Ok(_), _)) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a second request before the reply"))
        }
    }
}

/// Waits for room, but not for ever: while nobody else gives back any, this stream and what it holds are given up.
async fn in_grace<T>(limits: &Limits, room: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limits.grace, room).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
