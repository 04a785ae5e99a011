// Pausing, resuming, snapshots and forks (docs/sdk.md).

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox, SandboxNotFoundError } from 'e2b'

import { create, NOBODY, TOO_OLD, waitFor } from './support.mjs'

const FILE = '/home/user/kept'
const COUNTER = 'i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done'

async function state(sandbox) {
  return (await Sandbox.getInfo(sandbox.sandboxId)).state
}

/** Whether the counter in it moves. */
async function counts(sandbox) {
  const two = await sandbox.commands.run('cat /tmp/count; sleep 0.5; cat /tmp/count')
  const [before, after] = two.stdout.trim().split('\n').map(Number)
  return after > before
}

test('what runs goes on after a pause', async (t) => {
  const sandbox = await create(t, { envs: { KEPT: 'yes' } })
  await sandbox.files.write(FILE, 'kept')
  const counter = await sandbox.commands.run(COUNTER, { background: true, timeoutMs: 0 })
  // Its stream is cut with the pause.
  counter.wait().catch(() => {})
  await waitFor('the first count', () => sandbox.files.exists('/tmp/count'))
  assert.equal(await sandbox.pause(), true)
  assert.equal(await state(sandbox), 'paused')
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await sandbox.pause(), false, 'it is paused already')
  const same = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await state(sandbox), 'running')
  assert.equal(await same.files.read(FILE), 'kept')
  // A look may come between the emptying of the file and the writing of the next count.
  await waitFor('the next count', () => counts(same))
})

test('of a pause without memory the files are kept, and a new start has its environment', async (t) => {
  const sandbox = await create(t, { envs: { KEPT: 'yes' } })
  await sandbox.files.write(FILE, 'kept')
  await sandbox.commands.run(`(${COUNTER}) > /dev/null 2>&1 &`)
  await waitFor('the first count', () => sandbox.files.exists('/tmp/count'))
  const boot = async (of) => (await of.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout
  const before = await boot(sandbox)
  assert.equal(await sandbox.pause({ keepMemory: false }), true)
  const anew = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await anew.files.read(FILE), 'kept')
  assert.equal((await anew.commands.run('echo $KEPT')).stdout.trim(), 'yes')
  assert.ok(!(await counts(anew)), 'nothing of it runs')
  assert.notEqual(await boot(anew), before)
})

test('one that is paused with its memory can be started without', async (t) => {
  if (TOO_OLD) return t.skip(TOO_OLD)
  const sandbox = await create(t)
  await sandbox.files.write(FILE, 'kept')
  await sandbox.commands.run(`(${COUNTER}) > /dev/null 2>&1 &`)
  assert.equal(await sandbox.pause(), true)
  const anew = await Sandbox.connect(sandbox.sandboxId, { onResume: 'reboot' })
  assert.equal(await anew.files.read(FILE), 'kept')
  assert.equal((await anew.commands.run('pgrep -c sleep || true')).stdout.trim(), '0')
})

test('one made of a snapshot has the variables of its source, or its own', async (t) => {
  const source = await create(t, { envs: { A: '1', B: '2' } })
  const { snapshotId } = await source.createSnapshot()
  for (const [envs, shown] of [[undefined, '12'], [{ A: '3' }, '3']]) {
    const sandbox = await Sandbox.create(snapshotId, { timeoutMs: 60_000, ...(envs && { envs }) })
    t.after(() => sandbox.kill())
    assert.equal((await sandbox.commands.run('echo $A$B')).stdout.trim(), shown)
  }
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
})

test('a sandbox whose time is over is paused and traffic wakes it', async (t) => {
  const lifecycle = { onTimeout: 'pause', autoResume: true }
  const sandbox = await create(t, { timeoutMs: 2_000, lifecycle })
  await sandbox.files.write(FILE, 'kept')
  await waitFor('the pause', async () => (await state(sandbox)) === 'paused')
  const reads = Array.from({ length: 10 }, () => sandbox.files.read(FILE))
  assert.deepEqual(new Set(await Promise.all(reads)), new Set(['kept']))
  const { state: now, endAt } = await Sandbox.getInfo(sandbox.sandboxId)
  assert.equal(now, 'running')
  assert.ok(endAt - Date.now() > 240_000, 'five minutes at least')
})

test('a paused sandbox is listed, not woken without being asked to, and killed', async (t) => {
  const mark = `pause-${Date.now()}`
  const sandbox = await create(t, { metadata: { mark } })
  await sandbox.pause()
  await assert.rejects(() => sandbox.files.read(FILE))
  assert.equal(await state(sandbox), 'paused')
  const listed = async (states) => {
    const page = await Sandbox.list({ query: { metadata: { mark }, state: states } }).nextItems()
    return page.map((row) => row.sandboxId)
  }
  assert.deepEqual(await listed(['paused']), [sandbox.sandboxId])
  assert.deepEqual(await listed(['running']), [])
  assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  assert.deepEqual(await listed(['paused', 'running']), [])
})

test('what a paused sandbox cannot do is refused', async (t) => {
  const sandbox = await create(t)
  const command = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const cut = assert.rejects(command.wait())
  await sandbox.pause()
  await cut
  await assert.rejects(sandbox.createSnapshot(), SandboxNotFoundError)
  await assert.rejects(sandbox.setTimeout(60_000), SandboxNotFoundError)
  await assert.rejects(sandbox.fork(), /409: .* is paused/)
  assert.equal(await state(sandbox), 'paused')
  await sandbox.connect()
  const joined = await sandbox.commands.connect(command.pid)
  assert.equal(await joined.kill(), true)
})

test('a snapshot starts sandboxes with its files and outlives its source', async (t) => {
  const source = await create(t)
  await source.files.write(FILE, 'then')
  const name = `snap-${Date.now()}`
  const { snapshotId } = await source.createSnapshot({ name })
  await source.files.write(FILE, 'now')
  const first = await create(t, {})
  assert.ok(!(await first.files.exists(FILE)), 'the template is as it was')
  for (const template of [snapshotId, name]) {
    const sandbox = await Sandbox.create(template, { timeoutMs: 60_000 })
    t.after(() => sandbox.kill())
    assert.equal(await sandbox.files.read(FILE), 'then')
  }
  const { sandboxId } = source
  const listed = await Sandbox.listSnapshots({ sandboxId }).nextItems()
  assert.deepEqual(listed.map((row) => row.snapshotId), [snapshotId])
  await source.kill()
  const late = await Sandbox.create(snapshotId, { timeoutMs: 60_000 })
  t.after(() => late.kill())
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), false)
  assert.equal(await late.files.read(FILE), 'then', 'what runs runs on')
  await assert.rejects(() => Sandbox.create(snapshotId), /404/)
})

test('forks are sandboxes of their own', async (t) => {
  const source = await create(t, { metadata: { from: 'source' } })
  await source.files.write(FILE, 'shared')
  const forks = await source.fork({ count: 3, timeoutMs: 60_000 })
  assert.equal(forks.length, 3)
  for (const fork of forks) {
    assert.ok(!(fork instanceof Error), fork.message)
    t.after(() => fork.kill())
    assert.equal(await fork.files.read(FILE), 'shared')
    assert.deepEqual((await fork.getInfo()).metadata, { from: 'source' })
    await fork.files.write(FILE, fork.sandboxId)
  }
  assert.equal(await source.files.read(FILE), 'shared')
  assert.equal(await Sandbox.deleteSnapshot(NOBODY), false)
})
