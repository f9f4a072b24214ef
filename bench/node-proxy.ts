// Plain copying in Node, about as short as it can be: what any daemon in Node has to live with before it audits anything.
// Usage: node-proxy LISTEN_SOCKET TARGET_SOCKET
import { connect, createServer } from 'node:net'

const [listen = '', target = ''] = process.argv.slice(2)

createServer((client) => {
  const upstream = connect({ path: target })
  client.pipe(upstream)
  upstream.pipe(client)
  client.on('error', () => upstream.destroy())
  upstream.on('error', () => client.destroy())
}).listen({ path: listen, backlog: 4096 })
