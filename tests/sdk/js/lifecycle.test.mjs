// The life of a sandbox: create, look at, list, prolong, join, end.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import test from 'node:test'

import {
  AuthenticationError,
  NotFoundError,
  Sandbox,
  SandboxError,
  TimeoutError,
} from 'e2b'

import { create, ENVD_PORT, NOBODY, request, routing, waitFor } from './support.mjs'

async function listed(query, limit) {
  const paginator = Sandbox.list({ query, limit })
  const pages = []
  while (paginator.hasNext) {
    const page = await paginator.nextItems()
    pages.push(page.map((info) => info.sandboxId))
  }
  return pages
}

test('a new sandbox answers at once', async (t) => {
  const sandbox = await create(t)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal((await sandbox.commands.run('echo ready')).stdout, 'ready\n')
})

test('information about a sandbox is what was asked for', async (t) => {
  const metadata = { purpose: 'info', owner: 'ünser & co' }
  const sandbox = await create(t, { timeoutMs: 100_000, metadata })
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.name, 'base')
  assert.equal(info.state, 'running')
  assert.deepEqual(info.metadata, metadata)
  assert.ok(Math.abs(info.endAt - info.startedAt - 100_000) < 2000)
  assert.ok(info.cpuCount > 0 && info.memoryMB > 0)
})

test('a killed sandbox is gone', async (t) => {
  const sandbox = await create(t)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  assert.equal(await sandbox.isRunning(), false)
  await assert.rejects(sandbox.getInfo(), NotFoundError)
  await assert.rejects(sandbox.commands.run('true'), (error) => {
    // The two say the same in their own words.
    return error instanceof TimeoutError || error instanceof NotFoundError
  })
})

test('what never was is not found', async () => {
  assert.equal(await Sandbox.kill(NOBODY), false)
  await assert.rejects(Sandbox.getInfo(NOBODY), NotFoundError)
  await assert.rejects(Sandbox.connect(NOBODY), NotFoundError)
  await assert.rejects(Sandbox.setTimeout(NOBODY, 10_000), NotFoundError)
})

test('a sandbox ends at its timeout', async (t) => {
  const sandbox = await create(t, { timeoutMs: 5000 })
  assert.equal(await sandbox.isRunning(), true)
  await waitFor('the end of the sandbox', async () => !(await sandbox.isRunning()))
  await assert.rejects(sandbox.getInfo(), NotFoundError)
})

test('a timeout can be moved both ways', async (t) => {
  const sandbox = await create(t, { timeoutMs: 60_000 })
  const first = (await sandbox.getInfo()).endAt
  await sandbox.setTimeout(170_000)
  assert.ok((await sandbox.getInfo()).endAt - first > 60_000)
  await sandbox.setTimeout(1000)
  await waitFor('the end of the sandbox', async () => !(await sandbox.isRunning()))
})

test('a list is filtered and comes in pages', async (t) => {
  const mark = randomUUID()
  const made = []
  for (const colour of ['red & hot', 'blue', 'blue']) {
    made.push((await create(t, { metadata: { mark, colour } })).sandboxId)
  }
  const red = { metadata: { mark, colour: 'red & hot' } }
  assert.deepEqual(await listed(red), [[made[0]]])
  const pages = await listed({ metadata: { mark } }, 2)
  assert.deepEqual(pages, [[made[2], made[1]], [made[0]]])
  assert.deepEqual((await listed({ metadata: { mark }, state: ['running'] })).flat().length, 3)
  assert.deepEqual((await listed({ metadata: { mark }, state: ['paused'] })).flat(), [])
})

test('a running sandbox can be joined', async (t) => {
  const sandbox = await create(t)
  await sandbox.files.write('/tmp/note', 'from the first client')
  const joined = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await joined.files.read('/tmp/note'), 'from the first client')
})

test('sandboxes are made at once and see nothing of each other', async (t) => {
  const made = await Promise.all([1, 2, 3, 4].map(() => create(t)))
  await made[0].files.write('/tmp/mine', 'one')
  const names = await Promise.all(made.map((box) => box.commands.run('ls -A /tmp')))
  assert.deepEqual(names.map((result) => result.stdout), ['mine\n', '', '', ''])
})

test('a wrong key is refused', async () => {
  const apiKey = 'e2b_' + '0'.repeat(40)
  await assert.rejects(Sandbox.create({ apiKey }), AuthenticationError)
  await assert.rejects(Sandbox.list({ apiKey }).nextItems(), AuthenticationError)
})

test('an unknown template is not found', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (error) => {
    assert.ok(error instanceof SandboxError)
    assert.match(error.message, /^404: .*no-such-template/)
    return true
  })
})

test('a secured sandbox wants its token', async (t) => {
  const sandbox = await create(t, { secure: true })
  await sandbox.files.write('/tmp/secret', 'mine')
  const headers = routing(sandbox.sandboxId, ENVD_PORT)
  assert.equal((await request({ path: '/files?path=/tmp/secret', headers })).status, 401)
  assert.equal((await request({ path: '/health', headers })).status, 204)
})

test('metrics of a sandbox are measured', async (t) => {
  const sandbox = await create(t)
  const measured = async () => (await sandbox.getMetrics()).at(-1)
  const metrics = await waitFor('a first measurement', measured)
  assert.ok(metrics.cpuCount > 0)
  assert.ok(metrics.memUsed > 0 && metrics.memUsed <= metrics.memTotal)
  assert.ok(metrics.diskUsed > 0 && metrics.diskUsed <= metrics.diskTotal)
})
