//! How many segments are under way follows what the links bear.

use std::time::Duration;

use datamesh_core::Result;
use datamesh_core::sim::{Link, SimMesh};

use crate::parts::builder;
use crate::story::{must, tell};

/// Sixteen KiB, so that a few MiB have many segments.
const SEGMENT: u32 = 16 << 10;

const LEN: usize = 8 << 20;

fn set_links(sim: &SimMesh, link: Link) {
    let all: Vec<usize> = (0..sim.len()).collect();
    sim.set_link(&all, &all, Some(link));
}

/// Puts and gets, and says how long each took and how many segments were under way at last.
async fn put_and_get(sim: &SimMesh) -> Result<[(Duration, u64); 2]> {
    let mesh = sim.mesh(0)?;
    let content = vec![7; LEN];
    let began = sim.now();
    let receipt = mesh.put(content.clone()).await?;
    let put = (sim.now() - began, mesh.metrics().put_window);
    let began = sim.now();
    must(mesh.get(&receipt.capability).await? == content, "other bytes")?;
    Ok([put, (sim.now() - began, mesh.metrics().get_window)])
}

#[test]
fn long_links_get_more_under_way() {
    for seed in 0..2 {
        let told = tell(builder(seed).nodes(6).segment_bytes(SEGMENT), |sim| async move {
            let [(near_put, least), (near_get, _)] = put_and_get(&sim).await?;
            set_links(&sim, Link::default().with_latency(Duration::from_millis(100)));
            // What it may have learned of the short links is older than it believes.
            sim.sleep(Duration::from_secs(20)).await;
            put_and_get(&sim).await?;
            let [(put, put_window), (get, get_window)] = put_and_get(&sim).await?;
            println!(
                "seed {seed}: near put {near_put:?} with {least}, get {near_get:?}; far put {put:?} with \
                 {put_window}, get {get:?} with {get_window}"
            );
            must(put_window >= 3 * least && get_window >= 3 * least, "little is under way")?;
            // With no more under way than before each segment of the put costs a sixth of two ways there and back.
            let stiff = Duration::from_millis(400) * (LEN as u32 / SEGMENT) / 6;
            must(put * 3 < stiff, format!("{put:?} where a window of six takes {stiff:?}"))
        });
        assert_eq!(told, None);
    }
}

#[test]
fn thin_links_get_no_more_than_they_bear() {
    let told = tell(builder(3).nodes(6).segment_bytes(SEGMENT), |sim| async move {
        let [(_, least), _] = put_and_get(&sim).await?;
        set_links(&sim, Link::default().with_bytes_per_second(100_000));
        let [(put, put_window), (get, get_window)] = put_and_get(&sim).await?;
        println!("thin put {put:?} with {put_window}, get {get:?} with {get_window}");
        must(put_window <= 2 * least && get_window <= 2 * least, "much waits in queues")
    });
    assert_eq!(told, None);
}
