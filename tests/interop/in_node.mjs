// The scenarios in Node: `node in_node.mjs <the stage's URL> [longpoll]`.

import WebSocket from "ws"

import {run} from "./scenarios.mjs"

const show = ({name, ok, error, ms}) => console.log(`${ok ? "ok    " : "FAILED"} ${name} (${ms} ms) ${error}`)

await run({WebSocket, url: process.argv[2], polls: process.argv[3] === "longpoll", show})
process.exit(0)
