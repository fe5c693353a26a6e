// A peer built with JavaScript libp2p meets a node of datamesh that greets strangers.
//
//     node meet.mjs MULTIADDR
//
// It connects over TCP with Noise and Yamux, is told who is there, pings, and is refused the protocols of the mesh. It
// prints what it was told as one line of JSON, and fails where any of that is not so.
import './older.mjs'
import assert from 'node:assert/strict'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const LIMIT = 20_000

const target = multiaddr(process.argv[2])
const peer = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify({ runOnConnectionOpen: false }), ping: ping() }
})

try {
  const signal = AbortSignal.timeout(LIMIT)
  const connection = await peer.dial(target, { signal })
  assert.equal(connection.encryption, '/noise')
  assert.equal(connection.multiplexer, '/yamux/1.0.0')

  const told = await peer.services.identify.identify(connection, { signal })
  assert.equal(told.peerId.toString(), connection.remotePeer.toString())
  // Strangers learn nothing of the mesh: neither addresses, nor what members speak, nor what program this is.
  assert.deepEqual(told.listenAddrs.map(String), [])
  assert.equal(told.agentVersion, 'p2p')
  assert.equal(told.signedPeerRecord, undefined)
  const observed = told.observedAddr?.toString()
  const protocols = [...told.protocols].sort()
  const known = ['/datamesh/1', '/datamesh/proof/5', '/ipfs/id/1.0.0', '/ipfs/id/push/1.0.0', '/ipfs/ping/1.0.0']
  assert.deepEqual(protocols, known)

  const roundTrip = await peer.services.ping.ping(connection.remoteAddr, { signal })
  assert.ok(roundTrip >= 0)

  // At the same time, because a request waits for the proof, and a proof that is wrong ends the connection. What is said
  // is the first step of a proof, for a key that nobody has; the answer is a nonce, and that the key is not known.
  const [requests, proof] = await Promise.all([
    refused(connection, '/datamesh/1', frame(), signal),
    refused(connection, '/datamesh/proof/5', new Uint8Array(168), signal)
  ])
  assert.equal(requests, 0, 'a request of a stranger was answered')
  assert.equal(proof, 33, 'a stranger was shown more than a nonce, or nothing was')
  await closed(connection, signal)
  const self = peer.peerId.toString()
  console.log(JSON.stringify({ self, peer: told.peerId.toString(), observed, protocols, roundTrip, requests, proof }))
} finally {
  await peer.stop()
}

// A request without head and body.
function frame () {
  const bytes = new Uint8Array(12)
  bytes.set([1, 1])
  return bytes
}

// Opens a stream, says something, and counts the bytes that come back until it ends.
async function refused (connection, protocol, bytes, signal) {
  let count = 0
  try {
    const stream = await connection.newStream(protocol, { signal })
    stream.send(bytes)
    for await (const part of stream) {
      count += part.byteLength
    }
  } catch (error) {
    if (signal.aborted) {
      throw error
    }
  }
  return count
}

async function closed (connection, signal) {
  while (connection.status !== 'closed') {
    signal.throwIfAborted()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
