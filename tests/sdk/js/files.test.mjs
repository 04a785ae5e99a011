// Files, directories and watches.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'

import { FileNotFoundError, FilesystemEventType, FileType, InvalidArgumentError } from 'e2b'

import { create, waitFor } from './support.mjs'

const MIB = 1 << 20

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex')
}

test('text and bytes come back as they were written', async (t) => {
  const { files } = await create(t)
  const text = 'first line\nzweite Zeile: äöü €\n'
  const written = await files.write('/tmp/a/b/notes.txt', text)
  assert.equal(written.path, '/tmp/a/b/notes.txt')
  assert.equal(await files.read('/tmp/a/b/notes.txt'), text)
  const bytes = Uint8Array.from({ length: 100_000 }, (_, n) => n % 256)
  await files.write('/tmp/data', bytes.buffer)
  assert.deepEqual(await files.read('/tmp/data', { format: 'bytes' }), bytes)
})

test('several files are written at once', async (t) => {
  const { files } = await create(t)
  const wanted = Array.from({ length: 20 }, (_, n) => ({ path: `/tmp/many/${n}`, data: `file ${n}` }))
  const written = await files.writeFiles(wanted)
  assert.deepEqual(written.map((info) => info.path), wanted.map((file) => file.path))
  assert.equal(await files.read('/tmp/many/19'), 'file 19')
})

test('compressed and raw transfers arrive as they are', async (t) => {
  const { files, commands } = await create(t)
  const text = 'the same line again\n'.repeat(50_000)
  for (const options of [{ gzip: true }, { useOctetStream: true }]) {
    await files.write('/tmp/text', text, options)
    const size = (await commands.run('wc -c < /tmp/text')).stdout.trim()
    assert.equal(size, String(text.length))
    assert.equal(await files.read('/tmp/text', options), text)
  }
})

test('a hundred megabytes go up and down unharmed', async (t) => {
  const { files, commands } = await create(t)
  const blocks = Array.from({ length: 100 }, (_, n) => Buffer.alloc(MIB, `block ${n} `))
  const digest = createHash('sha256')
  for (const block of blocks) digest.update(block)
  const expected = digest.digest('hex')
  const left = [...blocks]
  const source = new ReadableStream({
    pull(controller) {
      const block = left.shift()
      if (block) controller.enqueue(block)
      else controller.close()
    },
  })
  const patient = { requestTimeoutMs: 100_000 }
  await files.write('/home/user/big', source, { ...patient, useOctetStream: true })
  const inside = await commands.run('sha256sum < /home/user/big', { timeoutMs: 100_000 })
  assert.equal(inside.stdout.split(' ')[0], expected)
  const back = createHash('sha256')
  let size = 0
  const stream = await files.read('/home/user/big', { format: 'stream', ...patient })
  for await (const part of stream) {
    back.update(part)
    size += part.length
  }
  assert.equal(size, 100 * MIB)
  assert.equal(back.digest('hex'), expected)
})

test('what is missing is not found', async (t) => {
  const { files } = await create(t)
  await assert.rejects(files.read('/tmp/missing'), FileNotFoundError)
  await assert.rejects(files.getInfo('/tmp/missing'), FileNotFoundError)
  await assert.rejects(files.list('/tmp/missing'), FileNotFoundError)
  await assert.rejects(files.rename('/tmp/missing', '/tmp/other'), FileNotFoundError)
  await assert.rejects(files.watchDir('/tmp/missing', () => {}), FileNotFoundError)
  assert.equal(await files.exists('/tmp/missing'), false)
})

test('directories are made once, listed in order, and removed whole', async (t) => {
  const { files } = await create(t)
  assert.equal(await files.makeDir('/tmp/tree/b/x'), true)
  assert.equal(await files.makeDir('/tmp/tree/b/x'), false)
  await files.write('/tmp/tree/a', '')
  const flat = await files.list('/tmp/tree')
  assert.deepEqual(flat.map((entry) => entry.name), ['a', 'b'])
  assert.deepEqual(flat.map((entry) => entry.type), [FileType.FILE, FileType.DIR])
  const deep = await files.list('/tmp/tree', { depth: 2 })
  assert.deepEqual(deep.map((entry) => entry.path), ['/tmp/tree/a', '/tmp/tree/b', '/tmp/tree/b/x'])
  await assert.rejects(files.list('/tmp/tree/a'), InvalidArgumentError)
  await files.remove('/tmp/tree')
  assert.equal(await files.exists('/tmp/tree'), false)
})

test('a file is renamed and described', async (t) => {
  const { files, commands } = await create(t)
  await files.write('/tmp/old', '12345')
  const entry = await files.rename('/tmp/old', '/tmp/new')
  assert.equal(entry.path, '/tmp/new')
  await commands.run('chmod 640 /tmp/new; ln -s /tmp/new /tmp/link')
  const info = await files.getInfo('/tmp/new')
  assert.equal(info.size, 5)
  assert.equal(info.mode, 0o640)
  assert.equal(info.permissions, '-rw-r-----')
  assert.equal(info.owner, 'user')
  assert.equal((await files.getInfo('/tmp/link')).symlinkTarget, '/tmp/new')
})

test('a file belongs to the user who wrote it', async (t) => {
  const { files } = await create(t)
  await files.write('mine', '')
  await files.write('roots', '', { user: 'root' })
  assert.equal((await files.getInfo('/home/user/mine')).owner, 'user')
  assert.equal((await files.getInfo('/root/roots')).owner, 'root')
})

test('a directory is watched with what is below it', async (t) => {
  const { files } = await create(t)
  await files.makeDir('/tmp/watched/sub')
  const seen = []
  const options = { recursive: true, timeoutMs: 60_000 }
  const watch = await files.watchDir('/tmp/watched', (event) => seen.push(event), options)
  const told = (type, name) => waitFor(`${type} of ${name}`, () => {
    return seen.some((event) => event.type === type && event.name === name)
  })
  await files.write('/tmp/watched/sub/file', 'text')
  await told(FilesystemEventType.CREATE, 'sub/file')
  await told(FilesystemEventType.WRITE, 'sub/file')
  await files.rename('/tmp/watched/sub/file', '/tmp/watched/moved')
  await told(FilesystemEventType.RENAME, 'sub/file')
  await told(FilesystemEventType.CREATE, 'moved')
  await files.remove('/tmp/watched/moved')
  await told(FilesystemEventType.REMOVE, 'moved')
  await watch.stop()
})

test('the digest of a download does not depend on how it is read', async (t) => {
  const { files } = await create(t)
  const bytes = Buffer.alloc(3 * MIB, 'cofferdam')
  await files.write('/tmp/data', new Blob([bytes]))
  const blob = await files.read('/tmp/data', { format: 'blob' })
  assert.equal(sha256(Buffer.from(await blob.arrayBuffer())), sha256(bytes))
  const whole = await files.read('/tmp/data', { format: 'bytes' })
  assert.equal(sha256(whole), sha256(bytes))
})
