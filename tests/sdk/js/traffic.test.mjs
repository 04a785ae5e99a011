// Reaching what runs in a sandbox through the edge: by headers, by host name, by signed link.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import test from 'node:test'

import {
  create,
  ENVD_PORT,
  guestProgram,
  NOBODY,
  openWebSocket,
  request,
  routing,
  waitFor,
} from './support.mjs'

/** Both ways that lead to a port of a sandbox. */
function ways(sandbox, port) {
  return [routing(sandbox.sandboxId, port), { Host: sandbox.getHost(port) }]
}

for (const address of ['0.0.0.0', '127.0.0.1']) {
  test(`a web server on ${address} is reached by headers and by host name`, async (t) => {
    const sandbox = await create(t)
    await sandbox.files.write('/home/user/www/index.html', 'hello from inside')
    const command = `cd www && python3 -m http.server --bind ${address} 8000`
    await sandbox.commands.run(command, { background: true, timeoutMs: 0 })
    for (const headers of ways(sandbox, 8000)) {
      const answer = await waitFor('the server', async () => {
        const answer = await request({ headers })
        return answer.status === 200 && answer
      })
      assert.equal(answer.text, 'hello from inside')
    }
  })
}

test('a WebSocket echoes text and bytes', async (t) => {
  const sandbox = await create(t)
  await sandbox.files.write('/tmp/echo.py', await guestProgram('echo_server.py'))
  const command = 'python3 /tmp/echo.py 0.0.0.0 7000'
  await sandbox.commands.run(command, { background: true, timeoutMs: 0 })
  for (const headers of ways(sandbox, 7000)) {
    const socket = await waitFor('the server', () => openWebSocket(headers))
    t.after(() => socket.terminate())
    for (const message of [randomBytes(10), randomBytes(100_000)]) {
      const echoed = new Promise((resolve) => socket.once('message', resolve))
      socket.send(message)
      assert.deepEqual(await echoed, message)
    }
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.close(1000)
    assert.equal(await closed, 1000)
  }
})

test('a closed port and a sandbox that is not there are told apart', async (t) => {
  const sandbox = await create(t)
  for (const headers of ways(sandbox, 5555)) {
    const answer = await request({ headers })
    assert.equal(answer.status, 502)
    assert.equal(JSON.parse(answer.text).port, 5555)
  }
  const answer = await request({ headers: routing(NOBODY, 80) })
  assert.equal(answer.status, 502)
  assert.match(JSON.parse(answer.text).message, /not found/)
})

test('signed links fetch and store files without a token', async (t) => {
  const sandbox = await create(t)
  const headers = { Host: sandbox.getHost(ENVD_PORT) }
  const pathOf = (link) => new URL(link).pathname + new URL(link).search
  await sandbox.files.write('/tmp/my file', 'signed')
  const download = pathOf(await sandbox.downloadUrl('/tmp/my file'))
  const answer = await request({ path: download, headers })
  assert.equal(answer.status, 200)
  assert.equal(answer.text, 'signed')
  const options = { useSignatureExpiration: 60 }
  const upload = pathOf(await sandbox.uploadUrl('/tmp/up', options))
  const type = { 'Content-Type': 'application/octet-stream' }
  const stored = await request({
    method: 'POST', path: upload, headers: { ...headers, ...type }, body: 'uploaded',
  })
  assert.equal(stored.status, 200)
  assert.equal(await sandbox.files.read('/tmp/up'), 'uploaded')
  assert.equal((await request({ path: upload, headers })).status, 401)
})
