// What a sandbox may reach, and who may reach it.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { ALL_TRAFFIC, Sandbox, SandboxError } from 'e2b'

import { create, ENVD_PORT, guestProgram, request, routing, TOO_OLD, waitFor } from './support.mjs'

/** Addresses that are nobody's (RFC 5737): what leads there is decided before anything is sent. */
const HERE = '192.0.2.1'
const THERE = '198.51.100.1'

/** Whether the sandbox's network leads to `address`; nothing is sent. */
async function hasWay(sandbox, address) {
  return (await sandbox.commands.run(`ip route get ${address} || true`)).stdout !== ''
}

test('rules by address hold from the start and can be changed', async (t) => {
  const rules = { denyOut: [ALL_TRAFFIC], allowOut: [HERE] }
  const sandbox = await create(t, { network: rules })
  assert.deepEqual([await hasWay(sandbox, HERE), await hasWay(sandbox, THERE)], [true, false])
  const { network } = await sandbox.getInfo()
  assert.deepEqual([network.denyOut, network.allowOut], [rules.denyOut, rules.allowOut])
  await sandbox.updateNetwork({ denyOut: [HERE] })
  assert.deepEqual([await hasWay(sandbox, HERE), await hasWay(sandbox, THERE)], [false, true])
  await sandbox.updateNetwork({})
  assert.deepEqual([await hasWay(sandbox, HERE), await hasWay(sandbox, THERE)], [true, true])
})

test('a private sandbox asks for its token, and programs see the masked host', async (t) => {
  const network = { allowPublicTraffic: false, maskRequestHost: 'masked.example:${PORT}' }
  const sandbox = await create(t, { network })
  const program = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers['Host'].encode())
http.server.HTTPServer(('', 8000), Handler).serve_forever()
`
  await sandbox.files.write('/tmp/host.py', program)
  await sandbox.commands.run('python3 /tmp/host.py', { background: true, timeoutMs: 0 })
  const ask = (token) => {
    const headers = routing(sandbox.sandboxId, 8000)
    return request({ headers: token ? { ...headers, 'e2b-traffic-access-token': token } : headers })
  }
  const token = sandbox.trafficAccessToken
  await waitFor('the server', async () => (await ask(token)).status === 200)
  assert.equal((await ask(token)).text, 'masked.example:8000')
  assert.equal((await ask()).status, 403)
  assert.equal((await ask('other')).status, 403)
})

test('a link is all it takes to fetch and store a file', async (t) => {
  const [sandbox, other] = [await create(t), await create(t)]
  for (const each of [sandbox, other]) await each.files.write('/tmp/my file', each.sandboxId)
  for (const each of [sandbox, other]) {
    const answer = await fetch(await each.downloadUrl('/tmp/my file'))
    assert.deepEqual([answer.status, await answer.text()], [200, each.sandboxId])
  }
  const form = new FormData()
  form.append('file', 'stored')
  const link = await sandbox.uploadUrl('/tmp/up', { useSignatureExpiration: 60 })
  const answer = await fetch(link, { method: 'POST', body: form })
  assert.equal(answer.status, 200)
  assert.equal(await sandbox.files.read('/tmp/up'), 'stored')
  const late = await sandbox.downloadUrl('/tmp/up', { useSignatureExpiration: -10 })
  assert.equal((await fetch(late)).status, 401)
})

test('a program that speaks HTTPS is reached on the ports that say so', async (t) => {
  if (TOO_OLD) return t.skip(TOO_OLD)
  const sandbox = await create(t, { network: { httpsPorts: [8443] } })
  assert.deepEqual((await sandbox.getInfo()).network.httpsPorts, [8443])
  await sandbox.files.write('/tmp/https.py', await guestProgram('https_server.py'))
  const command = 'python3 /tmp/https.py 0.0.0.0 8443'
  await sandbox.commands.run(command, { background: true, timeoutMs: 0 })
  const ask = () => request({ headers: { Host: sandbox.getHost(8443) } })
  await waitFor('the server', async () => (await ask()).status === 200)
  assert.equal((await ask()).text, sandbox.getHost(8443))
})

test('what cannot be kept is refused', async () => {
  const agent = { httpsPorts: [ENVD_PORT] }
  for (const [network, part] of [
    ...(TOO_OLD ? [] : [[agent, /^400: network\.httpsPorts/]]),
    [{ allowOut: ['example.com'] }, /^400: network\.allowOut/],
    [{ denyOut: ['example.com'] }, /^400: network\.denyOut/],
  ]) {
    const isRefusal = (error) => error instanceof SandboxError && part.test(error.message)
    await assert.rejects(() => Sandbox.create({ network }), isRefusal)
  }
})
