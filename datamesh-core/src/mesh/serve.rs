//! Requests of other nodes are answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::format::{Refusal, Reply, Request};
use crate::id::NodeId;
use crate::mesh::Core;
use crate::mesh::rate::cost_of;
use crate::observe::count;
use crate::planted::{Bug, is_active};
use crate::ports::{Inbound, Message};

impl Core {
    /// Answers what comes in by one transport, a bounded number of requests at a time; the others wait there.
    pub(super) async fn serve(self: Arc<Self>, number: usize) {
        let Some(transport) = self.engine.peers.transports().get(number).cloned() else { return };
        while let Some(inbound) = transport.accept().await {
            let place = self.inbound.acquire_arc().await;
            let core = Arc::clone(&self);
            let answer = async move {
                core.inbound_now.fetch_add(1, Ordering::Relaxed);
                let is_lost = core.answer(inbound).await;
                if is_lost && is_active(Bug::LeakPlace) {
                    return place.forget();
                }
                core.inbound_now.fetch_sub(1, Ordering::Relaxed);
                drop(place);
            };
            if self.tasks.start_to_end(answer).is_err() {
                return;
            }
        }
    }

    /// Answers one request, and says whether its caller was gone by then.
    async fn answer(self: &Arc<Self>, inbound: Inbound) -> bool {
        let Inbound { from, message, reply } = inbound;
        self.engine.peers.heard(from);
        let (answer, body) = match Request::decode(&message.head) {
            _ if self.engine.peers.is_revoked(&from) => {
                let text = "this node was revoked; ask who admits nodes to the mesh".to_owned();
                (Reply::Failed { refusal: Refusal::Denied, text }, Bytes::new())
            }
            Ok(request) if !self.is_within_rate(from, cost_of(&request)) => {
                let (rate, burst) = (self.limits.control_per_second, self.limits.control_burst);
                let text = format!(
                    "such messages take a token each, and more where they are long; a peer has {burst} at most and gets \
                     {rate} a second; ask later"
                );
                (Reply::Failed { refusal: Refusal::Busy, text }, Bytes::new())
            }
            Ok(Request::Epoch { number, hash }) => self.answer_epochs((number, hash), message.body).await,
            Ok(Request::Keys { generation, name }) => {
                self.answer_keys(from, (generation, name), message.body).await
            }
            Ok(Request::Members { records }) => (self.answer_members(from, records).await, Bytes::new()),
            Ok(Request::Forget { records }) => (self.answer_forget(from, &records).await, Bytes::new()),
            Ok(request) => self.node.handle(from, request, message.body).await,
            Err(error) => {
                let refusal = match error.kind() {
                    crate::ErrorKind::Unsupported => Refusal::Unsupported,
                    _ => Refusal::Invalid,
                };
                (Reply::Failed { refusal, text: error.to_string() }, Bytes::new())
            }
        };
        count(&self.engine.counters.inbound_requests, 1);
        let is_lost = reply.is_canceled();
        reply.send(Message { head: answer.encode(), body });
        is_lost
    }

    fn is_within_rate(&self, from: NodeId, cost: u32) -> bool {
        let is_within = self.rates.take(from, cost, self.engine.runtime.now());
        if !is_within {
            count(&self.engine.counters.requests_refused, 1);
        }
        is_within
    }
}
