// A node is drained under its clients, then forced. Needs a service of its own: there is no way
// back.

import assert from 'node:assert/strict'
import test from 'node:test'

import { Clients, KEPT, listAll, Operator, seeTheEnd, WORKERS } from './clients.mjs'
import { waitFor } from './support.mjs'

test('a drain refuses what comes and force ends what is there', async () => {
  const operator = await Operator.find()
  const clients = new Clients()
  try {
    // All that are kept run, and others come and go.
    const atWork = () =>
      clients.check() &&
      clients.kept.length === WORKERS * KEPT &&
      clients.killed.size > 2 * WORKERS
    await waitFor('work', atWork, 60_000)
    assert.equal(await operator.askFor('draining'), 204)
    clients.closed = true
    const refused = () => clients.check() && clients.refused.every((count) => count > 0)
    await waitFor('a refusal of every worker', refused)
    assert.equal(await operator.askFor('draining'), 204, 'again is as good')
    assert.equal(await operator.askFor('ready'), 409)

    // What was there goes on, for as long as it is let.
    const kept = clients.kept.map((sandbox) => sandbox.sandboxId).sort()
    const alone = async () => clients.check() && String(await listAll()) === String(kept)
    await waitFor('the others to end', alone)
    for (const sandbox of clients.kept) {
      assert.equal(await sandbox.isRunning(), true)
      const { stdout } = await sandbox.commands.run('echo still here')
      assert.equal(stdout, 'still here\n')
    }
    assert.equal((await operator.drain()).remaining, kept.length)
    assert.equal(clients.cut.size, 0)

    clients.forced = true
    assert.equal(await operator.askFor('draining', true), 204)
    await seeTheEnd(clients, operator)
  } finally {
    clients.enough = true
  }
  console.log(`drained, then forced: ${clients.counts()}`)
})
