// What this version does not have answers at once, with an error that says so (docs/sdk.md).

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox, SandboxNotFoundError, Secret, Template, Volume } from 'e2b'

import { create, NOBODY } from './support.mjs'

const alpine = () => Template().fromImage('alpine')

/** By the name of the error, without its ending. */
const CALLS = {
  Build: {
    build: () => Template.build(alpine(), 'x'),
    buildInBackground: () => Template.buildInBackground(alpine(), 'x'),
    getBuildStatus: () => Template.getBuildStatus({ templateId: 't', buildId: 'b' }),
  },
  Template: {
    assignTags: () => Template.assignTags('base:default', 'x'),
    removeTags: () => Template.removeTags('base', 'x'),
    getTags: () => Template.getTags('base'),
  },
  Volume: {
    create: () => Volume.create('v'),
    connect: () => Volume.connect('v'),
    getInfo: () => Volume.getInfo('v'),
    list: () => Volume.list(),
    destroy: () => Volume.destroy('v'),
  },
  Secret: {
    create: () => Secret.create('s', 'v'),
    update: () => Secret.update('s', 'v'),
    getInfo: () => Secret.getInfo('s'),
    list: () => Secret.list().nextItems(),
    exists: () => Secret.exists('s'),
    destroy: () => Secret.destroy('s'),
  },
}

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
