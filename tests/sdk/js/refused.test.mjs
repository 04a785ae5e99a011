// What this version does not have answers at once, with an error that says so (docs/sdk.md).

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox, SandboxNotFoundError } from 'e2b'

import { CALLS } from './calls.mjs'
import { create, NOBODY } from './support.mjs'

test('every call is refused by an error of its kind', async (t) => {
  const sandbox = await create(t)
  for (const [kind, calls] of Object.entries(CALLS)) {
    for (const [name, call] of Object.entries(calls)) {
      await assert.rejects(
        () => call(sandbox),
        (error) => {
          assert.equal(error.name, `${kind}Error`, name)
          assert.match(error.message, /^501: /, name)
          return true
        }
      )
    }
  }
  assert.ok(await sandbox.isRunning())
})

test('what has ended is not found whatever is asked of it', async () => {
  for (const call of [Sandbox.pause, Sandbox.createSnapshot]) {
    await assert.rejects(() => call.call(Sandbox, NOBODY), SandboxNotFoundError)
  }
  assert.equal(await Sandbox.deleteSnapshot('no-such-snapshot'), false)
})
