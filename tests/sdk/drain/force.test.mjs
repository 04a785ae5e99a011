// A node is forced at once, with creates under way. Needs a service of its own: there is no way
// back.

import assert from 'node:assert/strict'
import test from 'node:test'

import { Clients, Operator, seeTheEnd, WORKERS } from './clients.mjs'
import { waitFor } from './support.mjs'

test('force leaves nobody in doubt', async () => {
  const operator = await Operator.find()
  const clients = new Clients()
  try {
    await waitFor('work', () => clients.check() && clients.killed.size > WORKERS, 60_000)
    clients.forced = true
    assert.equal(await operator.askFor('draining', true), 204)
    clients.closed = true
    await seeTheEnd(clients, operator)
  } finally {
    clients.enough = true
  }
  console.log(`forced at once: ${clients.counts()}`)
})
