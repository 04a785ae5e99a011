// Clients that make sandboxes all the time, an operator who ends the node under them, and the
// check that what both were told fits together.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

import * as e2b from 'e2b'

import { request, waitFor } from './support.mjs'

const { NotFoundError, Sandbox } = e2b

export const WORKERS = 4

/** Sandboxes a worker leaves running; it ends all others itself. */
export const KEPT = 4

/** How long a sandbox lives if nobody ends it: above the limit of a test. */
const LIFETIME_MS = 180_000

/** What a create throws when the service cannot take it. */
const Refused = e2b.ServiceBusyError ?? e2b.SandboxError

/** The endpoints for operators, about the one node there is. */
export class Operator {
  static async find() {
    const operator = new Operator()
    const [node] = (await operator.#call('GET', '/nodes')).body
    operator.path = `/nodes/${node.id}`
    return operator
  }

  async #call(method, path, body) {
    const headers = {
      'X-Admin-Token': process.env.COFFERDAM_ADMIN_TOKEN,
      'Content-Type': 'application/json',
    }
    const answer = await request({ method, path, headers, body: body && JSON.stringify(body) })
    return { status: answer.status, body: answer.text && JSON.parse(answer.text) }
  }

  /** Asks for a status; answers what the HTTP answer is. */
  async askFor(status, forceStop) {
    return (await this.#call('POST', this.path, { status, forceStop })).status
  }

  async drain() {
    return (await this.#call('GET', `${this.path}/drain`)).body
  }

  async leaked() {
    return (await this.#call('GET', `${this.path}/leaks`)).body.leaked
  }
}

/** Workers that create, use, and now and then kill. What they were told is kept. */
export class Clients {
  /** The operator was told that the node drains. */
  closed = false
  /** The operator is about to ask for force. */
  forced = false
  enough = false
  returned = new Set()
  killed = new Set()
  kept = []
  refused = Array(WORKERS).fill(0)
  /** Those whose command met the force, with what was thrown. */
  cut = new Map()
  /** Those whose start was cut off by the force; known at the end. */
  undone = []
  listed = new Set()
  snapshots = 0
  /** What has stopped a worker. */
  fault = null

  constructor() {
    const workers = [...Array(WORKERS).keys()].map((number) => this.#work(number))
    const all = [...workers, this.#watch()]
    this.running = all.map((worker) => worker.catch((error) => (this.fault ??= error)))
  }

  /** Lets everyone finish; what went wrong in one of them is thrown here. */
  async stop() {
    this.enough = true
    await Promise.all(this.running)
    this.check()
  }

  check() {
    if (this.fault) throw this.fault
    return true
  }

  async #work(number) {
    let kept = 0
    while (!this.enough) {
      const { closed } = this
      let sandbox
      try {
        sandbox = await Sandbox.create({ timeoutMs: LIFETIME_MS })
      } catch (error) {
        // Older releases tell the status in the message only.
        const busy = error.statusCode === 503 || error.message.startsWith('503: ')
        if (!(error instanceof Refused && busy)) throw error
        this.refused[number] += 1
        // Refusals are cheap, and others have work to do.
        await delay(20)
        continue
      }
      this.returned.add(sandbox.sandboxId)
      assert.ok(!closed, `${sandbox.sandboxId} was made by a node that drains`)
      if (!(await this.#use(sandbox))) continue
      if (kept < KEPT) {
        kept += 1
        this.kept.push(sandbox)
      } else if (await sandbox.kill()) {
        this.killed.add(sandbox.sandboxId)
      } else {
        assert.ok(this.forced, `${sandbox.sandboxId} was gone before`)
      }
    }
  }

  /** Runs a command in it; false if it was ended by force meanwhile. */
  async #use(sandbox) {
    try {
      assert.equal((await sandbox.commands.run('echo at work')).stdout, 'at work\n')
      return true
    } catch (error) {
      if (!this.forced) throw error
      this.cut.set(sandbox.sandboxId, error.constructor.name)
      await waitFor(`the end of ${sandbox.sandboxId}`, async () => !(await sandbox.isRunning()))
      return false
    }
  }

  async #watch() {
    while (!this.enough) {
      for (const id of await listAll()) this.listed.add(id)
      this.snapshots += 1
      await delay(20)
    }
  }

  counts() {
    const cut = [...new Set(this.cut.values())].join(', ')
    const refused = this.refused.reduce((all, one) => all + one)
    return (
      `${this.returned.size} created, ${this.killed.size} killed by their clients, ` +
      `${this.kept.length} kept, ${this.cut.size} cut off (${cut}), ${refused} refused ` +
      `(${this.undone.length} starts undone), ${this.listed.size} listed in ${this.snapshots} snapshots`
    )
  }
}

/** The ids that `GET /v2/sandboxes` tells. */
export async function listAll() {
  const found = []
  const pages = Sandbox.list({ limit: 100 })
  while (pages.hasNext) found.push(...(await pages.nextItems()).map((info) => info.sandboxId))
  return found.sort()
}

/** The ids the control plane said in its log to run, not to start, and to have ended. */
async function announced() {
  const log = await readFile(process.env.SERVICE_LOG, 'utf8')
  const all = (pattern) => [...log.matchAll(pattern)].map((match) => match[1]).sort()
  return {
    runs: all(/create\{[^}]*sandbox\.id="(\w+)"\}: \S+ sandbox runs /g),
    refused: all(/create\{[^}]*sandbox\.id="(\w+)"\}: \S+ sandbox was refused /g),
    ended: all(/control_plane::watch: sandbox ended sandbox\.id=(\w+) /g),
  }
}

/** After the force: nothing runs, nothing comes, there is no way back, and all accounts agree. */
export async function seeTheEnd(clients, operator) {
  const isOver = async () => {
    const { remaining, attempt } = await operator.drain()
    return clients.check() && remaining === 0 && !attempt.running
  }
  await waitFor('an empty node', isOver)
  const before = [...clients.refused]
  const refusedAgain = () => clients.check() && clients.refused.every((now, i) => now > before[i])
  await waitFor('refusals of every worker', refusedAgain)
  const drain = await operator.drain()
  assert.equal(drain.accepting, false)
  assert.deepEqual(drain.attempt.failed, [])
  assert.deepEqual(await listAll(), [])
  await clients.stop()

  assert.equal(await operator.askFor('draining'), 204)
  assert.equal(await operator.askFor('draining', true), 204)
  for (const wayBack of ['ready', 'standby', 'unhealthy']) {
    assert.equal(await operator.askFor(wayBack), 409)
  }
  for (const sandbox of clients.kept) {
    assert.equal(await sandbox.isRunning(), false)
    await assert.rejects(sandbox.getInfo(), NotFoundError)
  }

  for (const id of clients.listed) {
    assert.ok(clients.returned.has(id), `${id} was listed, and its create was refused`)
  }
  const returned = [...clients.returned].sort()
  const allEnded = async () => {
    const { ended } = await announced()
    return returned.every((id) => ended.includes(id))
  }
  await waitFor('news of every end', allEnded)
  const told = await announced()
  assert.deepEqual(told.runs, returned, 'announced are those that were returned')
  assert.ok(!told.refused.some((id) => clients.returned.has(id)))
  assert.equal(new Set(told.ended).size, told.ended.length, 'each has ended once')
  // A start that was under way and was undone has an end, too.
  clients.undone = told.ended.filter((id) => !clients.returned.has(id))
  assert.ok(clients.undone.every((id) => told.refused.includes(id)))
  assert.deepEqual(await operator.leaked(), [])
}
