// Stands in for Sōzu where only the daemon is measured: reads the length of each frame, and answers OK at once.
// `answerer.mjs SOCKET`.
import { createServer } from 'node:net'

// A Response: status OK, empty message.
const OK = Buffer.from([12, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00, 0x12, 0x00])
const PREFIX_BYTES = 8

const server = createServer((socket) => {
  let prefix = Buffer.alloc(0)
  let missing = 0
  socket.on('data', (data) => {
    for (let at = 0; at < data.length; ) {
      if (missing === 0) {
        const taken = data.subarray(at, at + PREFIX_BYTES - prefix.length)
        prefix = Buffer.concat([prefix, taken])
        at += taken.length
        if (prefix.length < PREFIX_BYTES) return
        missing = prefix.readUInt32LE(0) - PREFIX_BYTES
        prefix = Buffer.alloc(0)
      } else {
        const taken = Math.min(missing, data.length - at)
        missing -= taken
        at += taken
      }
      if (missing === 0) socket.write(OK)
    }
  })
  socket.on('error', () => socket.destroy())
})
server.listen(process.argv[2], () => process.stdout.write('ready\n'))
process.stdin.on('end', () => process.exit(0)).resume()
