// phoenix.js over long polling: `node phoenix_js.mjs <node_modules> <task>` prints the result, as every runner does.

const [modules, text] = process.argv.slice(2)
const {LongPoll, Socket} = await import(`${modules}/phoenix/priv/static/phoenix.mjs`)
const task = JSON.parse(text)
const now = () => Number(process.hrtime.bigint()) / 1e9 // the server's clock, too

const answer = push => new Promise((resolve, reject) => {
  push.receive("ok", resolve).receive("error", reject).receive("timeout", () => reject(new Error("timeout")))
})

const socket = new Socket(`ws://127.0.0.1:${task.port}/socket`, {transport: LongPoll, timeout: 60_000})
socket.connect()
const channel = socket.channel("sim:polled")
await answer(channel.join())

async function work(pushes) {
  for (let number = 0; number < pushes; number++) {
    const response = await answer(channel.push("echo", {number}))
    if (response.number !== number) throw new Error("not the same")
  }
}

async function messages() {
  let count = 0
  let started = 0
  await new Promise(resolve => {
    channel.on("balance", payload => {
      if (payload.id && payload.currency && payload.balance > 0 && payload.seq >= 0) count++
    })
    channel.on("done", payload => {
      started = payload.started
      resolve()
    })
    channel.push("go", {n: task.n})
  })
  return {count, seconds: now() - started}
}

async function pushes() {
  await work(1)
  const each = Math.floor(task.n / task.in_flight)
  const started = now()
  await Promise.all(Array.from({length: task.in_flight}, () => work(each)))
  return {count: each * task.in_flight, seconds: now() - started}
}

console.log(JSON.stringify(await (task.work === "messages" ? messages : pushes)()))
process.exit(0)
