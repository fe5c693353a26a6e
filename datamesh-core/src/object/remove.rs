//! Removing an object.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Capability, Extents, Manifest, Reply, Request};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::object::gather::gather;
use crate::object::get::open_manifest;
use crate::object::{ASK_LIMIT, Engine};
use crate::peers::{refused, unexpected};

/// How many extents one removal request names.
const BATCH: usize = 1024;

/// What a removal achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// The object that was removed.
    pub object: ObjectId,
    /// How many nodes gave something up.
    pub nodes: usize,
    /// Members that could not be told; what they hold stays until they are told.
    pub unreached: Vec<NodeId>,
}

/// Removes an object from every member that can be reached.
///
/// Extents go first and the manifest last, so that a removal that was cut short can be repeated.
pub(crate) async fn remove(engine: Arc<Engine>, capability: Capability) -> Result<Removal> {
    let work = async {
        let secret = capability.removal_secret()?;
        let object = capability.object();
        let manifest = open_manifest(&engine, object).await?;
        if secret.hash() != manifest.public().removal {
            let text = "the capability's removal secret is not that of the object";
            return Err(Error::new(ErrorKind::AccessDenied, text).with_subject(object));
        }
        let mut nodes = BTreeSet::new();
        let mut unreached = BTreeSet::new();
        for extents in extents_of(&manifest).chunks(BATCH) {
            let request = Request::RemoveExtents { extents: extents.to_vec(), secret: secret.clone() };
            tell_all(&engine, &request, &mut nodes, &mut unreached).await?;
        }
        let request = Request::RemoveObject { object, secret: secret.clone() };
        tell_all(&engine, &request, &mut nodes, &mut unreached).await?;
        Ok(Removal { object, nodes: nodes.len(), unreached: unreached.into_iter().collect() })
    };
    work.await.map_err(|error| error.with_operation("remove"))
}

fn extents_of(manifest: &Manifest) -> Vec<ExtentId> {
    match &manifest.public().extents {
        Extents::Inline => Vec::new(),
        Extents::Single(layout) => vec![ExtentId::of(&layout.encode())],
        Extents::Many(extents) => extents.clone(),
    }
}

async fn tell_all(
    engine: &Arc<Engine>,
    request: &Request,
    nodes: &mut BTreeSet<NodeId>,
    unreached: &mut BTreeSet<NodeId>,
) -> Result<()> {
    // One that is leaving does not end before nothing is with it that is nowhere else.
    let members = engine.peers.possible_holders();
    let call = |node| (node, engine.peers.call(node, request.clone(), Bytes::new(), ASK_LIMIT));
    let calls = members.into_iter().map(call).collect();
    let (mut denied, mut done) = (None, false);
    for (node, answer) in gather(&*engine.runtime, calls, 0).await {
        match answer {
            Ok((Reply::Done, _)) => {
                done = true;
                nodes.insert(node);
            }
            Ok((Reply::Absent | Reply::Removed, _)) => {}
            // One that refuses what others do lies.
            Ok((Reply::Failed { refusal: refusal @ crate::format::Refusal::Denied, text }, _)) => {
                denied = Some(refused(refusal, &text, node));
                unreached.insert(node);
            }
            Ok((other, _)) => {
                tracing::debug!(error = %unexpected(&other, node), "a removal was not understood");
                unreached.insert(node);
            }
            Err(_) => drop(unreached.insert(node)),
        }
    }
    match denied {
        Some(error) if !done => Err(error),
        _ => Ok(()),
    }
}
