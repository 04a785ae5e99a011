// The method matrix is the truth about this release, in both directions (docs/methods.md).

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'

import * as e2b from 'e2b'

import { CALLS } from './calls.mjs'
import { create, REPOSITORY, VERSION } from './support.mjs'

const { Sandbox, Secret, Template } = e2b

/** The classes that the headings of the page stand for. */
const CLASSES = {
  Sandbox: ['Sandbox', 'SandboxApi'],
  'sandbox.files': ['Filesystem'],
  'sandbox.commands': ['Commands'],
  'sandbox.pty': ['Pty'],
  'sandbox.git': ['Git'],
  CommandHandle: ['CommandHandle'],
  WatchHandle: ['WatchHandle'],
  SandboxPaginator: ['SandboxPaginator', 'Paginator'],
  SnapshotPaginator: ['SnapshotPaginator', 'Paginator'],
  Template: ['TemplateBase'],
  Volume: ['Volume'],
  Secret: ['Secret'],
  SecretPaginator: ['SecretPaginator', 'Paginator'],
}

/** `make_dir` and `makeDir` are the same call. */
const key = (name) => name.replaceAll('_', '').toLowerCase()

/** What the page says of this release, by heading and call. */
async function matrix() {
  const text = await readFile(path.join(REPOSITORY, 'docs/methods.md'), 'utf8')
  const found = {}
  for (const section of text.split(/^## /m).slice(1)) {
    const heading = section.split('\n', 1)[0].replaceAll('`', '')
    const lines = section.split('\n').filter((line) => line.startsWith('|'))
    const table = lines.map((line) => line.split('|').map((cell) => cell.trim()))
    const column = table[0].indexOf(`JavaScript ${VERSION}`)
    assert.ok(column > 0, `${heading} has a column for this release`)
    const rows = table.slice(2).map((row) => [key(row[1].replaceAll('`', '')), row[column]])
    found[heading] = Object.fromEntries(rows)
    assert.equal(Object.keys(found[heading]).length, rows.length, `${heading}: two rows of a call`)
  }
  return found
}

const there = (rows) => Object.keys(rows).filter((name) => rows[name] !== '-')

/** The public calls of every class, as the client's own types declare them. */
async function declared() {
  const types = await readFile(new URL('index.d.ts', import.meta.resolve('e2b')), 'utf8')
  const calls = {}
  for (const [, name, body] of types.matchAll(/^declare (?:abstract )?class (\w+).*?\{\n(.*?)^\}/gms)) {
    const found = body.matchAll(/^ {2}(?!private|protected)(?:static |abstract )*(\w+)(?:<[^(]*>)?\(/gm)
    calls[name] = [...found].map(([, call]) => call).filter((call) => call !== 'constructor')
  }
  return calls
}

test('every call of this release has its row and every row a call', async () => {
  const said = await matrix()
  const calls = await declared()
  for (const [heading, classes] of Object.entries(CLASSES)) {
    const has = new Set(classes.flatMap((name) => calls[name]).map(key))
    assert.deepEqual(there(said[heading]).sort(), [...has].sort(), heading)
  }
  const isFunction = (name) => typeof e2b[name] === 'function' && /^[a-z]/.test(name)
  const functions = Object.keys(e2b).filter((name) => isFunction(name) && name !== 'default')
  assert.deepEqual(there(said.Functions).sort(), functions.map(key).sort())
  assert.deepEqual(Object.keys(said).sort(), [...Object.keys(CLASSES), 'Functions'].sort())
})

test('every refusal is tried', async () => {
  const tried = {}
  for (const [kind, calls] of Object.entries(CALLS)) {
    const heading = kind === 'Build' ? 'Template' : kind
    tried[heading] = [...(tried[heading] ?? []), ...Object.keys(calls).map(key)]
  }
  const said = await matrix()
  for (const [heading, names] of Object.entries(tried)) {
    const refused = there(said[heading]).filter((name) => said[heading][name] === '501')
    // There is no volume to ask it of.
    const asked = refused.filter((name) => heading !== 'Volume' || names.includes(name))
    assert.deepEqual(asked.sort(), names.sort(), heading)
  }
})

test('what asks nobody answers', async (t) => {
  const sandbox = await create(t)
  assert.ok(sandbox.getHost(8000).startsWith(`8000-${sandbox.sandboxId}.`))
  assert.match(sandbox.getMcpUrl(), /\/mcp$/)
  const signed = { path: '/etc/hostname', operation: 'read', user: 'user', envdAccessToken: 'token' }
  assert.match((await e2b.getSignature(signed)).signature, /^v1_/)
  const template = Template().fromImage('alpine').runCmd('true').setStartCmd('sleep 1', 'true')
  assert.match(Template.toDockerfile(template), /FROM alpine/)
  assert.match(await Template.toJSON(template), /alpine/)
  assert.ok(Secret.fill('name'))
  assert.ok(Secret.iamToken({ audience: 'https://example.com', tokenType: 'JWT-SVID' }))
})

test('there is no gateway and so no token of it', async (t) => {
  const sandbox = await create(t)
  await assert.rejects(() => sandbox.getMcpToken(), e2b.NotFoundError)
})

test('a sandbox is described whole, and the older name of a pause pauses it', async (t) => {
  const sandbox = await create(t)
  assert.equal((await Sandbox.getFullInfo(sandbox.sandboxId)).sandboxId, sandbox.sandboxId)
  assert.ok(await sandbox.betaPause())
  assert.equal((await sandbox.getInfo()).state, 'paused')
  await sandbox.connect()
  assert.ok(await sandbox.isRunning())
})
