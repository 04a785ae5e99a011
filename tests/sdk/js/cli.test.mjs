// E2B's own command line: what it offers for sandboxes, run as a program.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'

import { Sandbox } from 'e2b'

import { create, NOBODY, waitFor } from './support.mjs'

const PROGRAM = fileURLToPath(new URL('../node_modules/@e2b/cli/dist/index.js', import.meta.url))

/** Starts it. Without `input` there is nothing to read for it, as there is none of a script's. */
function start(args, { input = 'ignore', key = process.env.E2B_API_KEY } = {}) {
  const env = { ...process.env, E2B_API_KEY: key }
  return follow(spawn(process.execPath, [PROGRAM, ...args], { env, stdio: [input, 'pipe', 'pipe'] }))
}

/** A program with all that it has said so far, and its end. */
function follow(child) {
  const said = { child, stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8')
    child[name].on('data', (text) => (said[name] += text))
  }
  said.ended = new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve(code))
  })
  return said
}

/** Runs it to its end: its exit code and what it said. */
async function run(args, options = {}) {
  const { input, ...others } = options
  const said = start(args, { ...others, input: input === undefined ? 'ignore' : 'pipe' })
  if (input !== undefined) said.child.stdin.end(input)
  const code = await said.ended
  return { code, stdout: said.stdout, stderr: said.stderr }
}

/** What it says on standard output when all goes well. */
async function e2b(...args) {
  const { code, stdout, stderr } = await run(args)
  assert.equal(code, 0, `${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

/** Starts it on a terminal of 24 lines, where alone it opens one inside. */
function onTerminal(...args) {
  const words = [process.execPath, PROGRAM, ...args].map((word) => `'${word}'`)
  const line = `stty rows 24 cols 80; exec ${words.join(' ')}`
  const options = { env: { ...process.env, SHELL: '/bin/sh' }, stdio: 'pipe' }
  return follow(spawn('script', ['--quiet', '--return', '--command', line, '/dev/null'], options))
}

/** What it has written to its terminal, without colours. */
const shown = (said) => stripVTControlCharacters(said.stdout)

/** Types a line into the shell inside, when that asks for one. */
async function type(said, line) {
  await waitFor('the prompt', () => /[$#] $/.test(shown(said)))
  said.child.stdin.write(`${line}\r`)
}

/** The entries of a log that was asked for as JSON. */
function entries(text) {
  const lines = text.split('\n').filter((line) => line.startsWith('{'))
  return lines.map((line) => JSON.parse(line))
}

/** What it tells of a sandbox. */
async function info(id) {
  return JSON.parse(await e2b('sandbox', 'info', '--format', 'json', id))
}

/** Makes a sandbox with it, as `words` say, that ends with the test. */
async function made(t, ...words) {
  const id = (await e2b('sandbox', 'create', '--detach', ...words)).trim()
  assert.match(id, /^i[a-z0-9]+$/)
  t.after(() => Sandbox.kill(id))
  return id
}

/** Asks what only an operator may. */
async function operate(path, body) {
  const headers = {
    'Content-Type': 'application/json',
    'X-Admin-Token': process.env.COFFERDAM_ADMIN_TOKEN,
  }
  const request = { method: 'POST', headers, body: JSON.stringify(body) }
  const answer = await fetch(`${process.env.E2B_API_URL}${path}`, request)
  assert.equal(answer.status, 201, path)
  return answer.json()
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

test('the log of a sandbox says which commands were run and not what they wrote', async (t) => {
  const sandbox = await create(t)
  await assert.rejects(sandbox.commands.run('echo s3cr3t | tr 3 4; exit 7'))
  const told = entries(await e2b('sandbox', 'logs', '--format', 'json', sandbox.sandboxId))
  const [begun, ended] = told.filter((entry) => entry.event_type)
  assert.match(begun.message, /^Process with pid [0-9]+ started$/)
  assert.match(begun.command, /echo s3cr3t \| tr 3 4; exit 7/)
  assert.match(ended.message, /^Process with pid [0-9]+ ended$/)
  assert.deepEqual([ended.exit_code, ended.stdout_bytes, ended.stderr_bytes], ['7', '7', '0'])
  assert.ok(!JSON.stringify(told).includes('s4cr4t'), 'nothing of what it wrote')
  // The last lines are not lost with the sandbox.
  await sandbox.commands.run('true')
  await sandbox.kill()
  const all = entries(await e2b('sandbox', 'logs', '--format', 'json', sandbox.sandboxId))
  assert.equal(all.filter((entry) => entry.event_type === 'process_end').length, 2)
  assert.equal(all.at(-1).message, 'sandbox ended')
})

test('sandboxes and templates are listed', async (t) => {
  const sandbox = await create(t)
  assert.match(await e2b('sandbox', 'list'), new RegExp(sandbox.sandboxId))
  assert.match(await e2b('template', 'list'), /base/)
})

test('a sandbox is made as it was asked for, described, and ended', async (t) => {
  const lifecycle = ['--lifecycle.ontimeout', 'pause', '--lifecycle.autoresume']
  const id = await made(t, 'base', '--timeout', '60', ...lifecycle)
  const told = await info(id)
  assert.equal(told.sandboxId, id)
  assert.equal(told.name, 'base')
  assert.equal(told.state, 'running')
  assert.equal(new Date(told.endAt) - new Date(told.startedAt), 60_000)
  assert.deepEqual(told.lifecycle, { onTimeout: 'pause', autoResume: true })
  assert.match(await e2b('sandbox', 'info', id), new RegExp(`Sandbox ID: ${id}`))

  const other = await made(t)
  assert.equal((await info(other)).lifecycle.onTimeout, 'kill')
  const killed = await e2b('sandbox', 'kill', id, other)
  for (const one of [id, other]) {
    assert.match(killed, new RegExp(`Sandbox ${one} has been killed`))
    const gone = await run(['sandbox', 'info', one])
    assert.equal(gone.code, 1)
    assert.match(gone.stderr, /wasn't found/)
  }
  assert.match((await run(['sandbox', 'kill', id])).stderr, /wasn't found/)
})

test('all sandboxes of a team are ended, or those of a label or a state, and no others', async (t) => {
  const sandbox = await create(t)
  // A team of its own: to end all is not to end what other tests run.
  const team = await operate('/admin/teams', { name: `All ${randomUUID().slice(0, 8)}` })
  const { key } = await operate(`/admin/teams/${team.teamID}/api-keys`, { name: 'cli' })
  const ours = (metadata) => create(t, { apiKey: key, metadata })
  const [plain, labelled, paused] = [await ours(), await ours({ who: 'cli' }), await ours()]
  await paused.pause()
  const kill = async (...options) => {
    const { code, stdout, stderr } = await run(['sandbox', 'kill', '--all', ...options], { key })
    assert.equal(code, 0, stdout + stderr)
    return stdout
  }
  const left = async () => {
    const listed = await Sandbox.list({ apiKey: key }).nextItems()
    return listed.map((one) => one.sandboxId).sort()
  }
  assert.match(await kill('--metadata', 'who=cli'), /Killed 1 running sandboxes/)
  assert.deepEqual(await left(), [plain.sandboxId, paused.sandboxId].sort())
  assert.match(await kill(), new RegExp(`Sandbox ${plain.sandboxId} has been killed`))
  assert.deepEqual(await left(), [paused.sandboxId])
  assert.match(await kill(), /No running sandboxes/)
  assert.match(await kill('--state', 'running,paused'), /Killed 1 /)
  assert.deepEqual(await left(), [])
  assert.equal(await labelled.isRunning(), false)
  assert.ok(await sandbox.isRunning(), "it is another team's")
})

test('a command has its exit code, its output, its place and its words', async (t) => {
  const { sandboxId } = await create(t)
  const exec = (...words) => run(['sandbox', 'exec', ...words])
  const failed = await exec(sandboxId, 'echo out; echo err >&2; exit 7')
  assert.equal(failed.code, 7)
  assert.equal(failed.stdout, 'out\n')
  assert.match(failed.stderr, /^err\n/)
  const around = ['--user', 'root', '--cwd', '/etc', '--env', 'A=1 2']
  const placed = await exec(...around, sandboxId, 'id -u; pwd; echo "$A"')
  assert.deepEqual(placed, { code: 0, stdout: '0\n/etc\n1 2\n', stderr: '' })
  // More words than one stay as they are, whatever a shell would make of them.
  const words = await exec(sandboxId, '--', 'printf', '%s|', 'a  b', '$HOME', '*', '--user')
  assert.deepEqual(words, { code: 0, stdout: 'a  b|$HOME|*|--user|', stderr: '' })
  const nobody = await exec(NOBODY, 'true')
  assert.equal(nobody.code, 1)
  assert.match(nobody.stderr, /NotFoundError/)
})

test('what goes in reaches the command byte by byte, and so does its end', async (t) => {
  const { sandboxId } = await create(t)
  const input = randomBytes(1_000_000)
  const { code, stdout } = await run(['sandbox', 'exec', sandboxId, 'sha256sum'], { input })
  assert.equal(code, 0)
  assert.equal(stdout, `${createHash('sha256').update(input).digest('hex')}  -\n`)
})

test('a command runs on in the background, and an interrupted one is ended', async (t) => {
  const sandbox = await create(t)
  const pids = async () => (await sandbox.commands.list()).map((process) => process.pid)
  const behind = await run(['sandbox', 'exec', '--background', sandbox.sandboxId, 'sleep 1000'])
  assert.equal(behind.code, 0)
  const pid = Number(behind.stderr)
  assert.deepEqual(await pids(), [pid])

  const ahead = start(['sandbox', 'exec', sandbox.sandboxId, 'echo ready; exec sleep 1000'])
  await waitFor('its first line', () => ahead.stdout === 'ready\n')
  assert.equal((await pids()).length, 2)
  ahead.child.kill('SIGINT')
  assert.notEqual(await ahead.ended, 0)
  await waitFor('its end inside', async () => (await pids()).length === 1)
  assert.deepEqual(await pids(), [pid])
})

test('a terminal is opened in a sandbox that runs, which runs on after it', async (t) => {
  const sandbox = await create(t)
  const place = ['--user', 'root', '--cwd', '/etc', '--env', 'A=word']
  const said = onTerminal('sandbox', 'connect', ...place, sandbox.sandboxId)
  await type(said, 'echo "$(id -u) $PWD $A $(stty size)"')
  await waitFor('its answer', () => shown(said).includes('0 /etc word 24 80'))
  await type(said, 'exit')
  assert.equal(await said.ended, 0, shown(said))
  assert.match(shown(said), new RegExp(`Closing terminal connection to sandbox ${sandbox.sandboxId}`))
  assert.ok(await sandbox.isRunning())
})

test('a sandbox that is made with a terminal ends after it', async () => {
  const said = onTerminal('sandbox', 'create', 'base')
  await type(said, 'echo "it is $((20 + 22))"')
  await waitFor('its answer', () => shown(said).includes('it is 42'))
  const id = /with sandbox ID (i[a-z0-9]+)/.exec(shown(said))[1]
  assert.equal((await Sandbox.getInfo(id)).state, 'running')
  await type(said, 'exit')
  assert.equal(await said.ended, 0, shown(said))
  // It asks for a second more, and no end.
  const isGone = () => Sandbox.getInfo(id).then(() => false, () => true)
  await waitFor('its end', isGone)
})

test('what a sandbox uses is measured', async (t) => {
  const { sandboxId } = await create(t)
  const metrics = (...options) => e2b('sandbox', 'metrics', ...options)
  const sample = await waitFor('a sample', async () => {
    return entries(await metrics('--format', 'json', sandboxId))[0]
  })
  assert.ok(sample.cpuCount >= 1 && sample.memUsed > 0 && sample.memTotal > sample.memUsed)
  assert.ok(sample.diskTotal > 0 && !Number.isNaN(Date.parse(sample.timestamp)))
  assert.match(await metrics(sandboxId), /CPU.*Core.*Memory.*MiB.*Disk.*MiB/)
  assert.match(await metrics(NOBODY), /not found/)
})

test('a sandbox is paused and goes on with its files', async (t) => {
  const sandbox = await create(t)
  const { sandboxId } = sandbox
  await sandbox.files.write('/home/user/kept', 'kept')
  assert.match(await e2b('sandbox', 'pause', sandboxId), /has been paused/)
  assert.match(await e2b('sandbox', 'pause', sandboxId), /is already paused/)
  assert.equal((await info(sandboxId)).state, 'paused')
  const paused = await e2b('sandbox', 'list', '--state', 'paused', '--format', 'json')
  assert.ok(JSON.parse(paused).some((one) => one.sandboxId === sandboxId), paused)
  assert.match(await e2b('sandbox', 'resume', sandboxId), /has been resumed/)
  assert.equal((await info(sandboxId)).state, 'running')
  assert.equal(await e2b('sandbox', 'exec', sandboxId, 'cat kept'), 'kept')
  for (const command of ['pause', 'resume']) {
    const nobody = await run(['sandbox', command, NOBODY])
    assert.equal(nobody.code, 1)
    assert.match(nobody.stderr, /wasn't found/)
  }
})

test('a snapshot is made, listed, started from and deleted', async (t) => {
  const sandbox = await create(t)
  await sandbox.files.write('/home/user/kept', 'kept')
  const name = `cli-${randomUUID().slice(0, 8)}`
  const snapshot = (...words) => e2b('sandbox', 'snapshot', ...words)
  const told = await snapshot('create', '--name', name, sandbox.sandboxId)
  const id = /Created snapshot (\S+) from/.exec(told)[1]
  t.after(() => Sandbox.deleteSnapshot(id))
  const listed = JSON.parse(await snapshot('list', '--format', 'json', sandbox.sandboxId))
  assert.deepEqual(listed.map((one) => one.snapshotId), [id])
  assert.match(await snapshot('list', '--name', name), new RegExp(name))
  const copy = await made(t, id)
  assert.equal(await e2b('sandbox', 'exec', copy, 'cat kept'), 'kept')
  assert.match(await snapshot('delete', id), /has been deleted/)
  const again = await run(['sandbox', 'snapshot', 'delete', id])
  assert.match(again.stderr, /wasn't found/)
})
