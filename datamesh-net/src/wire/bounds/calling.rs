//! The same for the calling end: what it sends, and what it is sent in reply.

use std::sync::Arc;

use datamesh_core::Result;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{MAX_BODY_LEN, MAX_HEAD_LEN, Message};
use futures::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{LARGE, LONG, LONGEST, SHORT, SMALL, STEP, block_on, in_total, message, promise};
use crate::local::socket::Socket;
use crate::wire::frame::{self, Header, Kind};
use crate::wire::limits::Limits;
use crate::wire::peers::{Peer, Shared};
use crate::wire::session::{Link, LinkId, MAILBOX, Session, StreamRequest};
use crate::wire::{Stream, call, commands};

/// A node that calls.
struct Caller(Arc<Shared>);

/// A peer that it calls, and what that peer hears.
#[derive(Clone)]
struct Callee {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    hear: async_channel::Sender<(Header, Stream)>,
    heard: async_channel::Receiver<(Header, Stream)>,
}

impl Caller {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let runtime = tokio::runtime::Handle::current();
        Self(Arc::new(Shared::new(NodeId::from_bytes([1; 32]), limits, runtime)))
    }

    /// Connects a peer, which reads the headers of what it is sent and nothing else.
    fn connect(&self, number: u8) -> Callee {
        let peer = self.0.peer_or_new(NodeId::from_bytes([number; 32]));
        let (session, is_new) = peer.session_or_new(|| Session::new(&self.0.limits, self.0.runtime.clone()));
        assert!(is_new);
        let (mailbox, asked) = async_channel::bounded::<StreamRequest>(MAILBOX);
        session.add_link(Link::new(LinkId::Local(1), mailbox));
        let (hear, heard) = async_channel::bounded(MAILBOX);
        let callee = Callee { shared: self.0.clone(), peer, hear, heard };
        let listens = callee.clone();
        tokio::spawn(async move {
            while let Ok(request) = asked.recv().await {
                let (ours, theirs) = UnixStream::pair().unwrap();
                // Whoever asked may have gone away.
                let _ = request.send(Box::new(Socket::new(ours)));
                listens.listen(Box::new(Socket::new(theirs)));
            }
        });
        callee
    }
}

impl Callee {
    fn call(&self, request: Message) -> JoinHandle<Result<Message>> {
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        tokio::spawn(call::run(shared, commands::<()>().0, peer, request, LONG, Arc::default()))
    }

    /// Reads the header of the next request on a stream.
    fn listen(&self, mut stream: Stream) {
        let hear = self.hear.clone();
        tokio::spawn(async move {
            if let Ok(Some(header)) = frame::read_header(&mut stream).await {
                hear.send((header, stream)).await.unwrap();
            }
        });
    }

    /// The next request's header, which must come.
    async fn next(&self) -> (Header, Stream) {
        timeout(LONG, self.heard.recv()).await.expect("nothing is sent").unwrap()
    }
}

/// A peer that has much to send or to be sent, and another one, which may be the same.
fn peers(limits: impl FnOnce(&mut Limits), other: u8) -> [Callee; 2] {
    let caller = Caller::new(limits);
    let first = caller.connect(2);
    let other = if other == 2 { first.clone() } else { caller.connect(other) };
    [first, other]
}

/// Requests that nobody reads take room up to the limit: what is over it is not sent before one of them ends.
fn requests_that_nobody_reads(change: impl Fn(&mut Limits, usize), other: u8) {
    block_on(async {
        for (room, passes) in [(LARGE - 1, false), (LARGE, true), (LARGE + 1, true)] {
            let [lazy, other] = peers(|limits| change(limits, LONGEST + room), other);
            let longest = lazy.call(message(MAX_HEAD_LEN, MAX_BODY_LEN));
            let (_, unread) = lazy.next().await;
            other.call(message(40, LARGE - 40));
            let sent = timeout(if passes { LONG } else { SHORT }, other.next()).await;
            assert_eq!(sent.is_ok(), passes, "room for {room} of {LARGE} bytes");
            // What is small does not wait behind it.
            other.call(message(40, SMALL - 40));
            assert_eq!(other.next().await.0.body_len, SMALL - 40);
            // Whoever gives a call up makes room.
            longest.abort();
            if !passes {
                assert_eq!(other.next().await.0.body_len, LARGE - 40);
            }
            drop((unread, sent));
        }
    });
}

#[test]
fn requests_to_one_peer() {
    requests_that_nobody_reads(|limits, bytes| limits.bytes_per_peer = bytes + SMALL, 2);
}

#[test]
fn requests_to_all_peers() {
    requests_that_nobody_reads(|limits, bytes| limits.bytes_in_total = in_total(bytes), 3);
}

/// The header of the longest reply, and so much of it that it has its room once this is written.
fn promised_reply() -> Vec<u8> {
    let mut bytes = [promise(), vec![7; 40 * STEP]].concat();
    bytes[1] = 2;
    bytes
}

/// Replies that do not end take room up to the limit: what is over it is not read before one of them is given up.
fn replies_that_do_not_end(change: impl Fn(&mut Limits, usize), other: u8) {
    block_on(async {
        for (room, passes) in [(LARGE - 1, false), (LARGE, true), (LARGE + 1, true)] {
            let [lazy, other] = peers(|limits| change(limits, LONGEST + room), other);
            let longest = lazy.call(Message::default());
            let (_, mut endless) = lazy.next().await;
            endless.write_all(&promised_reply()).await.unwrap();
            let ask = async |bytes: usize| {
                let asked = other.call(Message::default());
                let (_, mut stream) = other.next().await;
                frame::write(&mut stream, Kind::Reply, &message(40, bytes - 40)).await.unwrap();
                (asked, stream)
            };
            let (mut large, stream) = ask(LARGE).await;
            let limit = if passes { LONG } else { SHORT };
            let reply = timeout(limit, &mut large).await;
            assert_eq!(reply.is_ok(), passes, "room for {room} of {LARGE} bytes");
            // Its stream serves the next call, once it is done.
            other.listen(stream);
            let (small, _stream) = ask(SMALL).await;
            assert_eq!(small.await.unwrap().unwrap().body.len(), SMALL - 40);
            longest.abort();
            if !passes {
                assert_eq!(large.await.unwrap().unwrap().body.len(), LARGE - 40);
            }
        }
    });
}

#[test]
fn replies_of_one_peer() {
    replies_that_do_not_end(|limits, bytes| limits.bytes_per_peer = bytes + SMALL, 2);
}

#[test]
fn replies_of_all_peers() {
    replies_that_do_not_end(|limits, bytes| limits.bytes_in_total = in_total(bytes), 3);
}
