//! One call: a connection, a stream, a request, its reply.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datamesh_core::ports::Message;
use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;

use super::budget;
use super::frame::{self, Header, Kind};
use super::peers::{Peer, Shared};
use super::session::{Leased, Session};
use super::{Command, Commands};

/// Idle streams that may turn out dead before a call gives up; a restarted peer leaves a whole pool.
const ATTEMPTS: usize = 8;

/// Makes a call within its time. `sent` is true while the peer may have the whole request.
pub(crate) async fn run<A: Send + 'static>(
    shared: Arc<Shared>,
    commands: Commands<A>,
    peer: Arc<Peer>,
    request: Message,
    limit: Duration,
    sent: Arc<AtomicBool>,
) -> Result<Message> {
    let work = exchange(&shared, &commands, &peer, &request, &sent);
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(timed_out(sent.load(Ordering::Relaxed), limit)),
    }
}

pub(crate) fn timed_out(sent: bool, limit: Duration) -> Error {
    let what = if sent { "no reply" } else { "the request did not get out" };
    Error::new(ErrorKind::TimedOut, format!("{what} within {} ms", limit.as_millis()))
}

async fn exchange<A>(
    shared: &Shared,
    commands: &Commands<A>,
    peer: &Peer,
    request: &Message,
    sent: &AtomicBool,
) -> Result<Message> {
    let session = connect(commands, peer).await?;
    let bytes = request.head.len().saturating_add(request.body.len());
    let budgets = [&peer.bytes.requests_sent, &shared.bytes.requests_sent];
    let _bytes = budget::take(budgets, bytes).await.map_err(not_sent)?;
    let mut stream = send(&session, request, sent).await?;
    stream.set_awaiting(true);
    let reply = receive(shared, peer, &mut stream).await?;
    stream.give_back();
    reply
}

/// The session with a peer, dialled if there is none.
async fn connect<A>(commands: &Commands<A>, peer: &Peer) -> Result<Arc<Session>> {
    if let Some(session) = peer.session() {
        return Ok(session);
    }
    let (done, dialled) = oneshot::channel();
    let asked = commands.send(Command::Dial(peer.node, done)).await;
    asked.map_err(|_| closed())?;
    let dialled = dialled.await.map_err(|_| closed())?;
    dialled.map_err(|error| match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Closed => error,
        _ => {
            let message = format!("the peer cannot be reached: {error}");
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        }
    })?;
    peer.session()
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the peer left as soon as it was reached"))
}

/// Writes the request on a stream of the pool, and on another when the peer had closed that one.
///
/// A request that was not written to its end was not handled: the peer waits for the whole frame.
async fn send(session: &Arc<Session>, request: &Message, sent: &AtomicBool) -> Result<Leased> {
    let mut last = io::Error::from(io::ErrorKind::NotConnected);
    for _ in 0..ATTEMPTS {
        let Some(mut leased) = session.take().await else { break };
        let Some(stream) = leased.stream() else { continue };
        sent.store(true, Ordering::Relaxed);
        match frame::write(stream, Kind::Request, request).await {
            Ok(()) => return Ok(leased),
            Err(error) => last = error,
        }
        sent.store(false, Ordering::Relaxed);
    }
    Err(not_sent(last))
}

/// Reads the reply. The outer error means that the stream is of no more use.
async fn receive(shared: &Shared, peer: &Peer, leased: &mut Leased) -> Result<Result<Message>> {
    let stream = leased.stream().ok_or_else(|| lost(io::ErrorKind::NotConnected.into()))?;
    let header = frame::read_header(stream).await.map_err(lost)?;
    let header: Header = header.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
    leased.set_awaiting(false);
    header.check(&shared.limits).map_err(lost)?;
    match header.kind {
        Kind::Reply => {}
        Kind::GaveUp => {
            let message = "the peer dropped the request unanswered; ask it again";
            return Ok(Err(Error::new(ErrorKind::OutcomeUnknown, message)));
        }
        Kind::TooLarge => {
            let message = "the peer's reply is over the limit of a message; ask for less";
            return Ok(Err(Error::new(ErrorKind::LimitExceeded, message)));
        }
        Kind::Request => return Err(lost(io::ErrorKind::InvalidData.into())),
    }
    let budgets = [&peer.bytes.replies_received, &shared.bytes.replies_received];
    let _bytes = budget::take(budgets, header.message_len()).await.map_err(lost)?;
    let stream = leased.stream().ok_or_else(|| lost(io::ErrorKind::NotConnected.into()))?;
    Ok(Ok(frame::read_message(stream, &header, &shared.buffers).await.map_err(lost)?))
}

fn not_sent(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection broke before the request was sent").with_source(error)
}

/// The connection broke after the request was sent, or the peer sent nonsense.
fn lost(error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::InvalidData => "the peer's reply is no valid frame; is it of another version?",
        _ => "the connection broke before the reply; ask again",
    };
    Error::new(ErrorKind::OutcomeUnknown, message).with_source(error)
}

/// The transport was closed when the peer may have had the request.
pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "the transport was closed before the reply came")
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the transport is closed; open it again")
}
