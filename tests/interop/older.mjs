// What js-libp2p expects of Node 22, for Node 20.
Promise.withResolvers ??= function withResolvers () {
  let resolve, reject
  const promise = new Promise((accept, refuse) => { [resolve, reject] = [accept, refuse] })
  return { promise, resolve, reject }
}
