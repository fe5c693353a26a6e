//! What a node serves ends with the connection, also where it closes that itself.
#![cfg(feature = "libp2p")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::nodes::libp2p::node;
use common::nodes::{LIMIT, echo, route};
use common::{TestRuntime, run};
use datamesh_core::ErrorKind;
use datamesh_core::ports::{Message, Transport};

/// Who waits for a reply, and the memory and the place that its request has, are let go of at once: the peer comes back
/// on another connection, and needs them.
fn what_is_served_ends_with_the_connection(listen: &str) {
    run(async {
        let (ours, theirs) = (node(1, 7, listen).await, node(2, 7, listen).await);
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
        let closing = async {
            let held = theirs.accept().await.unwrap();
            theirs.machine_woke();
            while !held.reply.is_canceled() {
                TestRuntime::shared().sleep(Duration::from_millis(5)).await;
            }
        };
        let (lost, ()) = futures::join!(ours.call(theirs.local_node(), Message::default(), LIMIT), closing);
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    });
}

#[test]
fn what_is_served_ends_with_the_connection_over_tcp() {
    what_is_served_ends_with_the_connection(common::nodes::TCP);
}

#[cfg(feature = "quic")]
#[test]
fn what_is_served_ends_with_the_connection_over_quic() {
    what_is_served_ends_with_the_connection(common::nodes::QUIC);
}
