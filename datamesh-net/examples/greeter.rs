//! A node that greets strangers, for tools and tests that speak libp2p: `cargo run -p datamesh-net --example greeter`.
//!
//! It prints where it listens, and then each stranger that it sends away, until its input ends.
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::io::Read;

use datamesh_core::Result;
use datamesh_core::ports::{Transport, TransportEvent};
use datamesh_net::libp2p::{Discovery, Libp2pConfig, Libp2pTransport};
use futures::executor::block_on;

fn main() -> Result<()> {
    // Both keys are of no use to anybody.
    let config = Libp2pConfig::new([1; 32], [7; 32])
        .listen(vec!["/ip4/127.0.0.1/tcp/0".parse()?])
        .discovery(Discovery::new().greet_strangers());
    let node = block_on(Libp2pTransport::open(config))?;
    for address in node.listen_addresses() {
        println!("listening {address}");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever ends the input ends the program.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            block_on(node.close());
        });
        while let Some(event) = block_on(node.next_event()) {
            match event {
                TransportEvent::Refused(why) => println!("refused {why}"),
                TransportEvent::Connected(node) => println!("connected {node}"),
                _ => {}
            }
        }
    });
    Ok(())
}
