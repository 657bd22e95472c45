// The gateway's job as one writes it with Fastify: node proxy.js PORT REDIS_PORT ORIGIN_PORT PREFIX PEPPER SCRIPT

import { createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fastify from 'fastify'
import replyFrom from '@fastify/reply-from'
import { Redis } from 'ioredis'

const [port, redisPort, originPort, prefix, pepper, script] = process.argv.slice(2)

const redis = new Redis({ port: Number(redisPort), enableAutoPipelining: true })
redis.defineCommand('count', { numberOfKeys: 2, lua: readFileSync(script, 'utf8') })

const digests = new Map()
function digestOf (key) {
  let digest = digests.get(key)
  if (digest === undefined) {
    digest = createHmac('sha256', pepper).update(key).digest('hex')
    if (digests.size >= 200000) digests.clear()
    digests.set(key, digest)
  }
  return digest
}

const refusals = { quota: 'CallLimit', unknown: 'AccessDenied' }

const app = fastify({ logger: false, bodyLimit: 16 * 1024 * 1024, keepAliveTimeout: 75000 })
app.register(replyFrom, {
  base: `http://127.0.0.1:${originPort}`,
  undici: { connections: 256, pipelining: 1 },
  disableRequestLogging: true
})
app.removeAllContentTypeParsers()
app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body))
app.all('/*', async (request, reply) => {
  const [path] = request.url.split('?', 1)
  const key = request.query.instanceKey ??
    new URLSearchParams(request.body?.toString() ?? '').get('instanceKey') ?? ''
  const digest = digestOf(key)
  const day = new Date().toISOString().slice(0, 10).replaceAll('-', '')
  const method = path.slice(path.lastIndexOf('/') + 1)
  const said = await redis.count(`${prefix}:key:${digest}`, `${prefix}:day:${digest}:${day}`, method)
  if (said !== 'ok') {
    return { ErrorCode: refusals[said] ?? 'InstanceKeyBan', ErrorDescription: 'The call was not allowed.' }
  }
  return reply.from(request.url)
})

await app.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 })
