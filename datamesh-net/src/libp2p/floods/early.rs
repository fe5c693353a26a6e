//! Streams that come before the proof of the mesh key: a few are kept, and served after it.

use futures::future::{self, Either};

use super::*;

/// A request that is empty, and the header of the reply to it.
const ASKED: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ANSWERED: [u8; 12] = [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// How many of so many streams are served that a member opens before its proof.
async fn served(ours: &Libp2pTransport, count: usize) -> usize {
    let (member, ends) = dial(&Keypair::generate_ed25519(), ours).await;
    let asks = async {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(member.open("/datamesh/1").await);
        }
        // Each was taken or reset before the proof begins.
        let heard = join_all(streams.iter_mut().map(|stream| hear_taken(stream, "/datamesh/1"))).await;
        prove(&member, &ends).await;
        let answers = streams.into_iter().zip(heard).map(async |(mut stream, heard)| {
            let mut header = [0; ANSWERED.len()];
            heard?;
            stream.write_all(&ASKED).await?;
            stream.read_exact(&mut header).await?;
            assert_eq!(header, ANSWERED);
            std::io::Result::Ok(())
        });
        join_all(answers).await.into_iter().filter(Result::is_ok).count()
    };
    let answers = async {
        while let Some(inbound) = ours.accept().await {
            inbound.reply.send(Message::default());
        }
    };
    let others = future::select(Box::pin(member.drive()), Box::pin(answers));
    match future::select(Box::pin(asks), others).await {
        Either::Left((served, _)) => served,
        Either::Right(_) => panic!("the connection ends"),
    }
}

#[test]
fn streams_before_the_proof() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (per_connection, most) in [(Limits::default().streams_per_connection, 16), (3, 3)] {
            let limits = Limits { streams_per_connection: per_connection, ..Limits::default() };
            let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            let ours = Libp2pTransport::open(config(1).listen(listen).limits(limits)).await.unwrap();
            for count in [most - 1, most, most + 1] {
                let served = tokio::time::timeout(LIMIT, served(&ours, count)).await.expect("it hangs");
                assert_eq!(served, count.min(most), "of {count}");
            }
        }
    });
}
