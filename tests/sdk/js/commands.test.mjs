// Running commands and terminals.

import assert from 'node:assert/strict'
import test from 'node:test'

import {
  AuthenticationError,
  CommandExitError,
  InvalidArgumentError,
  NotFoundError,
  TimeoutError,
} from 'e2b'

import { create, waitFor } from './support.mjs'

/** The exit error of a command that must fail. */
async function failure(promise) {
  const error = await promise.then(() => null, (reason) => reason)
  assert.ok(error instanceof CommandExitError, `expected an exit error, got ${error}`)
  return error
}

async function pids(sandbox) {
  return (await sandbox.commands.list()).map((process) => process.pid)
}

test('a command answers with its output and exit code', async (t) => {
  const sandbox = await create(t)
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.equal(result.stdout, 'out\n')
  assert.equal(result.stderr, 'err\n')
  assert.equal(result.exitCode, 0)
})

test('a failed command rejects with everything it said', async (t) => {
  const sandbox = await create(t)
  const error = await failure(sandbox.commands.run('echo out; echo err >&2; exit 42'))
  assert.equal(error.exitCode, 42)
  assert.equal(error.stdout, 'out\n')
  assert.equal(error.stderr, 'err\n')
})

test('output arrives while the command runs', async (t) => {
  // The command waits for a file that is made when its first line arrives.
  const sandbox = await create(t)
  const lines = []
  const onStdout = async (text) => {
    lines.push(text)
    if (text.includes('first')) await sandbox.files.write('/tmp/go', '')
  }
  const command = 'echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo second'
  const result = await sandbox.commands.run(command, { onStdout, timeoutMs: 30_000 })
  assert.equal(result.stdout, 'first\nsecond\n')
  assert.equal(lines.join(''), result.stdout)
})

test('large output and split characters arrive whole', async (t) => {
  const sandbox = await create(t)
  const result = await sandbox.commands.run(`python3 -c "print('€' * 300000, end='')"`)
  assert.equal(result.stdout, '€'.repeat(300_000))
})

test('a background command is listed until it is killed', async (t) => {
  const sandbox = await create(t)
  const handle = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  assert.ok((await pids(sandbox)).includes(handle.pid))
  assert.equal(await handle.kill(), true)
  assert.equal((await failure(handle.wait())).error, 'signal: killed')
  await waitFor('the command to leave the list', async () => {
    return !(await pids(sandbox)).includes(handle.pid)
  })
  assert.equal(await sandbox.commands.kill(handle.pid), false)
})

test('a command outlives its client and can be joined again', async (t) => {
  const sandbox = await create(t)
  const command = 'until [ -e /tmp/go ]; do sleep 0.05; done; echo late; exit 3'
  const first = await sandbox.commands.run(command, { background: true, timeoutMs: 0 })
  await first.disconnect()
  const second = await sandbox.commands.connect(first.pid, { timeoutMs: 30_000 })
  await sandbox.files.write('/tmp/go', '')
  const error = await failure(second.wait())
  assert.equal(error.exitCode, 3)
  assert.equal(error.stdout, 'late\n')
})

test('joining what never was is not found', async (t) => {
  const sandbox = await create(t)
  await assert.rejects(sandbox.commands.connect(4_000_000), NotFoundError)
})

test('input reaches a command and its end does too', async (t) => {
  const sandbox = await create(t)
  const options = { background: true, stdin: true, timeoutMs: 30_000 }
  const handle = await sandbox.commands.run('cat; echo end', options)
  await sandbox.commands.sendStdin(handle.pid, 'one\n')
  await sandbox.commands.sendStdin(handle.pid, 'zwölf\n')
  await sandbox.commands.closeStdin(handle.pid)
  assert.equal((await handle.wait()).stdout, 'one\nzwölf\nend\n')
})

test('a command over its time is ended', async (t) => {
  const sandbox = await create(t)
  await assert.rejects(sandbox.commands.run('exec sleep 1000', { timeoutMs: 1000 }), TimeoutError)
  await waitFor('the command to be ended', async () => (await pids(sandbox)).length === 0)
})

test('a command runs as the user, in the directory and with the environment asked for', async (t) => {
  const sandbox = await create(t, { envs: { SHARED: 'sandbox', OWN: 'sandbox' } })
  const command = 'echo $(whoami):$(pwd):$SHARED:$OWN'
  const plain = await sandbox.commands.run(command)
  assert.equal(plain.stdout, 'user:/home/user:sandbox:sandbox\n')
  const options = { user: 'root', cwd: '/usr/lib', envs: { OWN: 'command' } }
  const asked = await sandbox.commands.run(command, options)
  assert.equal(asked.stdout, 'root:/usr/lib:sandbox:command\n')
})

test('an unknown user and a missing directory are refused', async (t) => {
  const sandbox = await create(t)
  const unknown = sandbox.commands.run('true', { user: 'nobody-we-know' })
  await assert.rejects(unknown, AuthenticationError)
  await assert.rejects(sandbox.commands.run('true', { cwd: '/no/such' }), InvalidArgumentError)
})

test('a terminal has its size, can be resized, and ends with the code of its shell', async (t) => {
  const sandbox = await create(t)
  const parts = []
  const terminal = await sandbox.pty.create({
    cols: 97,
    rows: 31,
    onData: (part) => parts.push(Buffer.from(part)),
    timeoutMs: 30_000,
  })
  const screen = () => Buffer.concat(parts).toString()
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('stty size\n')
  await waitFor('the first size', () => screen().includes('31 97'))
  await sandbox.pty.resize(terminal.pid, { cols: 120, rows: 40 })
  await type('stty size; exit 7\n')
  assert.equal((await failure(terminal.wait())).exitCode, 7)
  assert.match(screen(), /40 120/)
})

test('a terminal can be killed', async (t) => {
  const sandbox = await create(t)
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => {} })
  assert.equal(await terminal.kill(), true)
  await failure(terminal.wait())
  assert.equal(await sandbox.pty.kill(4_000_000), false)
})
