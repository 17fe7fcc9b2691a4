// The official client against the fake: `node realtime_js.mjs URL KEY VSN`. Prints a line of JSON for each thing it sees.

import {createRequire} from "node:module"
import path from "node:path"

const [url, key, vsn] = process.argv.slice(2)
const require = createRequire(path.join(process.cwd(), "in_node.mjs"))
const {RealtimeClient} = require("@supabase/realtime-js")
const say = (...what) => console.log(JSON.stringify(what))

const client = new RealtimeClient(url, {params: {apikey: key}, vsn, transport: require("ws")})
await client.setAuth("fresh")
const config = {private: true, broadcast: {self: true, ack: true}, presence: {key: "js"}}
const channel = client.channel("orders", {config})
channel
  .on("postgres_changes", {event: "INSERT", schema: "public", table: "orders"}, ({new: row}) => say("row", row))
  .on("broadcast", {event: "hello"}, ({payload}) => say("broadcast", payload))
  .on("presence", {event: "join"}, ({key}) => say("came", key))
  .subscribe(async (status, error) => {
    say("status", status, error?.message ?? null)
    if (status !== "SUBSCRIBED") return
    say("tracked", await channel.track({mood: "ok"}))
    say("sent", await channel.send({type: "broadcast", event: "hello", payload: {from: "js"}}))
  })
