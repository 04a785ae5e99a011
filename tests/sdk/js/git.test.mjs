// Every call of `sandbox.git`, on real repositories in a sandbox (docs/methods.md).

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { CommandExitError } from 'e2b'

import { create } from './support.mjs'

const ORIGIN = '/home/user/origin.git'
const WORK = '/home/user/work'
const CLONE = '/home/user/clone'
const WHO = 'Ada'

/** A repository with one commit, pushed to another. */
async function repository(t) {
  const sandbox = await create(t)
  const { git } = sandbox
  await git.configureUser(WHO, 'ada@example.com')
  await git.init(ORIGIN, { bare: true, initialBranch: 'main' })
  await git.init(WORK, { initialBranch: 'main' })
  await git.remoteAdd(WORK, 'origin', ORIGIN)
  await sandbox.files.write(`${WORK}/file`, 'one')
  await git.add(WORK)
  await git.commit(WORK, 'first')
  await git.push(WORK, { remote: 'origin', branch: 'main' })
  const said = async (command) => {
    const { stdout } = await sandbox.commands.run(command, { cwd: WORK })
    return stdout.trim()
  }
  return { sandbox, git, said }
}

test('a change travels from one repository to another', async (t) => {
  const { sandbox, git, said } = await repository(t)
  assert.equal(await git.remoteGet(WORK, 'origin'), ORIGIN)
  assert.equal(await git.remoteGet(WORK, 'nowhere'), undefined)
  await git.clone(ORIGIN, { path: CLONE })
  assert.equal(await sandbox.files.read(`${CLONE}/file`), 'one')
  await sandbox.files.write(`${WORK}/file`, 'two')
  await git.add(WORK, { files: ['file'], all: false })
  await git.commit(WORK, 'second', { authorName: 'Grace', authorEmail: 'grace@example.com' })
  assert.equal(await said('git log --format=%an'), `Grace\n${WHO}`)
  await git.push(WORK, { remote: 'origin', branch: 'main' })
  await git.pull(CLONE, { remote: 'origin', branch: 'main' })
  assert.equal(await sandbox.files.read(`${CLONE}/file`), 'two')
})

test('what has changed is told, staged and taken back', async (t) => {
  const { sandbox, git, said } = await repository(t)
  assert.ok((await git.status(WORK)).isClean)
  await sandbox.files.write(`${WORK}/file`, 'two')
  await sandbox.files.write(`${WORK}/new`, 'x')
  let status = await git.status(WORK)
  assert.deepEqual([status.hasChanges, status.hasUntracked, status.hasStaged], [true, true, false])
  assert.equal(status.currentBranch, 'main')
  await git.add(WORK)
  status = await git.status(WORK)
  assert.deepEqual([status.stagedCount, status.untrackedCount], [2, 0])
  await git.reset(WORK, { paths: ['new'] })
  assert.ok((await git.status(WORK)).hasUntracked)
  await git.restore(WORK, { paths: ['file'], staged: true })
  await git.restore(WORK, { paths: ['file'] })
  assert.equal(await sandbox.files.read(`${WORK}/file`), 'one')
  await git.commit(WORK, 'empty', { allowEmpty: true })
  await git.reset(WORK, { mode: 'hard', target: 'HEAD~1' })
  assert.equal(await said('git log --format=%s'), 'first')
})

test('branches are made, listed, changed and deleted', async (t) => {
  const { git, said } = await repository(t)
  await git.createBranch(WORK, 'topic')
  assert.equal(await said('git branch --show-current'), 'topic')
  await git.checkoutBranch(WORK, 'main')
  const { branches, currentBranch } = await git.branches(WORK)
  assert.deepEqual([branches.sort(), currentBranch], [['main', 'topic'], 'main'])
  await git.deleteBranch(WORK, 'topic')
  assert.deepEqual((await git.branches(WORK)).branches, ['main'])
  await assert.rejects(
    () => git.checkoutBranch(WORK, 'nowhere'),
    (error) => error instanceof CommandExitError && error.stderr.includes('nowhere')
  )
})

test('settings and credentials are kept', async (t) => {
  const { sandbox, git } = await repository(t)
  assert.equal(await git.getConfig('user.name'), WHO)
  await git.setConfig('user.name', 'Other', { scope: 'local', path: WORK })
  assert.equal(await git.getConfig('user.name', { scope: 'local', path: WORK }), 'Other')
  assert.equal(await git.getConfig('user.nothing'), undefined)
  await git.dangerouslyAuthenticate({
    username: 'ada',
    password: 'secret',
    host: 'git.example.com',
  })
  assert.match(await sandbox.files.read('/home/user/.git-credentials'), /ada:secret@git\.example\.com/)
})
