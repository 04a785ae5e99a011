// What the tests share: sandboxes that end with their test, waiting for states, and speaking to
// the edge without the SDK.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import http from 'node:http'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { Sandbox } from 'e2b'
import WebSocket from 'ws'

export const REPOSITORY = process.env.COFFERDAM_REPOSITORY
export const ENVD_PORT = 49983

/** The SDK release under test. */
export const { version: VERSION } = JSON.parse(
  await readFile(new URL('../package.json', import.meta.resolve('e2b')), 'utf8')
)

/** Why a test of what only the newest release can ask for is skipped with this one, if it is. */
export const TOO_OLD = Number(VERSION.split('.')[1]) < 51 && 'this release does not have it'

/** A well-formed id that no sandbox has. */
export const NOBODY = 'i' + '0'.repeat(20)

/** How long a forgotten sandbox lives on: above the limit of a test. */
const LIFETIME_MS = 180_000

/** Makes a sandbox that ends with the test `t`. */
export async function create(t, options = {}) {
  const sandbox = await Sandbox.create({ timeoutMs: LIFETIME_MS, ...options })
  t.after(() => sandbox.kill())
  return sandbox
}

/** Waits until `predicate` answers something truthy, and answers that. */
export async function waitFor(what, predicate, limitMs = 60_000) {
  const deadline = Date.now() + limitMs
  for (;;) {
    const answer = await predicate()
    if (answer) return answer
    assert.ok(Date.now() < deadline, `${what} did not happen within ${limitMs} ms`)
    await delay(50)
  }
}

/** A program that runs inside sandboxes. */
export function guestProgram(name) {
  return readFile(path.join(REPOSITORY, 'tests/sdk/guest', name), 'utf8')
}

const edge = new URL(process.env.E2B_SANDBOX_URL)

/** The headers that lead to a port of a sandbox. */
export function routing(sandboxId, port) {
  return { 'E2b-Sandbox-Id': sandboxId, 'E2b-Sandbox-Port': String(port) }
}

/** One request to the service's one port; a `Host` header replaces the address, unresolved. */
export function request({ method = 'GET', path = '/', headers = {}, body }) {
  const options = { host: edge.hostname, port: edge.port, method, path, headers, agent: false }
  return new Promise((resolve, reject) => {
    const sent = http.request(options, (answer) => {
      const parts = []
      answer.on('data', (part) => parts.push(part))
      answer.on('error', reject)
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString()
        resolve({ status: answer.statusCode, headers: answer.headers, text })
      })
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

/** Opens a WebSocket; answers `null` while the server does not accept it. */
export function openWebSocket(headers) {
  return new Promise((resolve) => {
    const socket = new WebSocket(`ws://${edge.host}/`, { headers })
    socket.once('open', () => resolve(socket))
    socket.once('error', () => resolve(null))
  })
}
