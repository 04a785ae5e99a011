// E2B's own command line, where it asks for what the SDK does not.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import { create, NOBODY } from './support.mjs'

const PROGRAM = fileURLToPath(new URL('../node_modules/@e2b/cli/dist/index.js', import.meta.url))

/** What it says on standard output. */
async function e2b(...args) {
  const { stdout } = await promisify(execFile)(process.execPath, [PROGRAM, ...args])
  return stdout
}

/** The entries of a log that was asked for as JSON. */
function entries(text) {
  const lines = text.split('\n').filter((line) => line.startsWith('{'))
  return lines.map((line) => JSON.parse(line))
}

test('the log of a sandbox says what became of it', async (t) => {
  const sandbox = await create(t)
  await sandbox.setTimeout(60_000)
  await sandbox.kill()
  const logs = (...options) => e2b('sandbox', 'logs', '--format', 'json', ...options)
  const messages = (text) => entries(text).map((entry) => entry.message)
  const told = await logs(sandbox.sandboxId)
  assert.deepEqual(messages(told), ['sandbox asked for', 'sandbox started', 'sandbox ended'])
  assert.equal(entries(told).at(-1).reason, 'request')
  const all = messages(await logs('--level', 'DEBUG', sandbox.sandboxId))
  assert.ok(all.includes('end moved') && all.includes('end asked for'), all.join())
  assert.deepEqual(entries(await logs(NOBODY)), [])
})

test('sandboxes and templates are listed', async (t) => {
  const sandbox = await create(t)
  assert.match(await e2b('sandbox', 'list'), new RegExp(sandbox.sandboxId))
  assert.match(await e2b('template', 'list'), /base/)
})
