// The programs in README.md run as they are printed there.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import { REPOSITORY } from './support.mjs'

test('the programs of the README run', async () => {
  const text = await readFile(path.join(REPOSITORY, 'README.md'), 'utf8')
  const programs = [...text.matchAll(/^```(?:js|javascript)\n(.*?)^```$/gms)].map((found) => found[1])
  assert.ok(programs.length > 0, 'README.md has no JavaScript program')
  const script = path.join(path.dirname(fileURLToPath(import.meta.url)), 'program.mjs')
  for (const program of programs) {
    await writeFile(script, program)
    const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 100_000 })
    assert.ok(stdout, 'a program that shows something')
  }
})
