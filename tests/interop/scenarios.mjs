// What the official client does with our server, scenario by scenario; the same in Node and in a browser.
//
// Each scenario gets a server of its own, started by the stage (stage.py) on the other side of a WebSocket: `t.ask` makes
// the stage act on that server. A scenario that throws has failed. What the server saw is compared in test_phoenix_js.py.

import {LongPoll, Presence, Socket} from "phoenix"

const PATIENCE = 5000 // ms that anything may take before the scenario fails

const ROOM = "room:lobby"

// The serializer of phoenix.js before 1.4.
const V1 = {
  vsn: "1.0.0",
  encode: (message, callback) => callback(JSON.stringify(message)),
  decode: (text, callback) => callback(JSON.parse(text)),
}

const scenarios = {
  // ---- connecting --------------------------------------------------------------------------------------------------

  async connect_with_params(t) {
    const socket = await t.connected({params: {user: "ann", filter: {text: "1 + 1 = é&", deep: {er: "yes"}}}})
    t.equal(socket.connectionState(), "open")
  },

  async connect_with_auth_token(t) {
    const socket = await t.connected({authToken: "sekret~~~~"}) // in base64 it has a + and padding
    t.equal(socket.conn.protocol, "phoenix")
  },

  async connect_refused_until_the_token_is_right(t) {
    const tokens = ["wrong", "wrong too"]
    const socket = t.socket({authToken: () => tokens.shift() || "sekret~~~~"})
    const errors = t.seen("errors")
    socket.onError(() => errors.add(socket.connectionState()))
    await t.open(socket)
    t.equal(errors.items.length, 2)
  },

  async disconnect_and_connect_again(t) {
    const socket = await t.connected()
    const channel = socket.channel(ROOM)
    const joins = t.joins(channel)
    await joins.reach(1)
    await t.wait("disconnected", resolve => socket.disconnect(resolve, 3001, "a pause"))
    socket.connect()
    await joins.reach(2)
    t.equal(await t.answer(channel.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  // ---- joining -----------------------------------------------------------------------------------------------------

  async join_ok(t) {
    const channel = (await t.connected()).channel(ROOM, {since: 7})
    t.equal(await t.answer(channel.join()), ["ok", {echo: {since: 7}}])
    t.equal(channel.state, "joined")
  },

  async join_refused_then_accepted(t) {
    const channel = (await t.connected()).channel("room:flaky")
    const answers = t.joins(channel)
    await answers.reach(2)
    t.equal(answers.items, [["error", {reason: "flaky", attempt: 1}], ["ok", {attempt: 2}]])
  },

  async join_of_a_topic_without_a_channel(t) {
    const channel = (await t.connected()).channel("nowhere:1")
    t.equal(await t.answer(channel.join()), ["error", {reason: "unmatched topic"}])
    channel.leave()
  },

  async join_that_crashes(t) {
    const channel = (await t.connected()).channel("room:crash_join")
    t.equal(await t.answer(channel.join()), ["error", {reason: "join crashed"}])
    channel.leave()
  },

  async join_timed_out_then_accepted(t) {
    const socket = await t.connected({rejoinAfterMs: () => 600})
    const channel = socket.channel("room:slow_once") // 600 ms
    const answers = t.joins(channel, 250)
    await answers.reach(2)
    t.equal(answers.items, [["timeout", {}], ["ok", {attempt: 2}]])
    t.equal(await t.answer(channel.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async rejoin_after_a_crash(t) {
    const socket = await t.connected()
    const [channel, other] = [socket.channel(ROOM, {n: 1}), socket.channel("room:other")]
    await t.joins(other).reach(1)
    const [joins, errors] = [t.joins(channel), t.errors(channel)]
    await joins.reach(1)
    const lost = t.answer(channel.push("crash", {}, 300))
    await joins.reach(2)
    t.equal(errors.items, [{reason: "channel_crash"}])
    t.equal(await t.answer(channel.push("echo", {n: 1})), ["ok", {n: 1}])
    t.equal(await t.answer(other.push("echo", {n: 2})), ["ok", {n: 2}])
    t.equal(await lost, ["timeout", {}])
  },

  async rejoin_after_a_server_restart(t) {
    const socket = await t.connected()
    const channels = [socket.channel(ROOM), socket.channel("room:other")]
    const joins = channels.map(channel => t.joins(channel))
    await Promise.all(joins.map(each => each.reach(1)))
    const closes = t.closes(socket)
    await t.ask("restart")
    await Promise.all(joins.map(each => each.reach(2)))
    t.equal(closes.items[0], 1012)
    t.equal(await t.answer(channels[0].push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async rejoin_after_a_cut(t) {
    const socket = await t.connected()
    const channel = socket.channel(ROOM)
    const [joins, closes] = [t.joins(channel), t.closes(socket)]
    await joins.reach(1)
    await t.ask("cut")
    await joins.reach(2)
    t.equal(closes.items, [1006])
  },

  async duplicate_join_the_client_leaves_the_old_one(t) {
    const socket = await t.connected()
    const [old, new_] = [socket.channel(ROOM), socket.channel(ROOM)]
    await t.joins(old).reach(1)
    const closed = t.wait("the old channel is closed", resolve => old.onClose(resolve))
    await t.joins(new_).reach(1)
    await closed
    t.equal([old.state, new_.state], ["closed", "joined"])
    t.equal(await t.answer(new_.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async duplicate_join_the_server_replaces_the_old_one(t) {
    const socket = await t.connected()
    socket.leaveOpenTopic = () => {}
    const order = t.seen("reply and close")
    const [old, new_] = [socket.channel(ROOM, {n: 1}), socket.channel(ROOM, {n: 2})]
    await t.joins(old).reach(1)
    socket.onMessage(({join_ref, event}) => order.add([join_ref === old.joinRef() ? "old" : "new", event]))
    new_.join()
    await order.reach(2)
    t.equal(order.items, [["new", "phx_reply"], ["old", "phx_close"]])
    t.equal([old.state, new_.state], ["closed", "joined"])
    t.equal(await t.answer(new_.push("echo", {n: 3})), ["ok", {n: 3}])
  },

  async leave(t) {
    const socket = await t.connected()
    const channel = socket.channel(ROOM)
    await t.joins(channel).reach(1)
    const closes = t.seen("closes of the channel")
    const late = t.seen("late messages")
    channel.onClose(() => closes.add(channel.state))
    channel.on("news", late.add)
    t.equal(await t.answer(channel.leave()), ["ok", {}])
    await closes.reach(1)
    await t.ask("broadcast", {topic: ROOM, event: "news", payload: {}})
    const again = socket.channel(ROOM)
    t.equal(await t.answer(again.join()), ["ok", {echo: {}}])
    t.equal(late.items, [])
  },

  async stopped_by_the_server(t) {
    const channel = (await t.connected()).channel(ROOM)
    const joins = t.joins(channel)
    await joins.reach(1)
    const closed = t.wait("the channel is closed", resolve => channel.onClose(resolve))
    t.equal(await t.answer(channel.push("stop", {bye: true})), ["ok", {bye: true}])
    await closed
    await t.pause(100) // a client that joined again would have done so after 20
    t.equal([channel.state, joins.items.length], ["closed", 1])
  },

  // ---- messages ----------------------------------------------------------------------------------------------------

  async push_ok_error_and_custom_status(t) {
    const channel = await t.joined()
    const payload = {text: "é漢🎉 \u2028 \"\\", list: [1, 1.5, -0, null, true, {}], big: 2 ** 53}
    t.equal(await t.answer(channel.push("echo", payload)), ["ok", payload])
    t.equal(await t.answer(channel.push("echo_error", {n: 2})), ["error", {n: 2}])
    t.equal(await t.answer(channel.push("echo_maybe", {n: 3})), ["maybe", {n: 3}])
  },

  async push_timeout(t) {
    const channel = await t.joined()
    t.equal(await t.answer(channel.push("no_reply", {}, 100)), ["timeout", {}])
    t.equal(await t.answer(channel.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async push_before_the_join_is_answered(t) {
    const channel = (await t.connected()).channel(ROOM)
    channel.join()
    t.equal(await t.answer(channel.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async replies_come_in_order_and_to_their_own_pushes(t) {
    const channel = await t.joined()
    const replies = t.seen("replies")
    for (let n = 0; n < 200; n++) channel.push("bounce", {n}).receive("ok", ({n: back}) => replies.add([n, back]))
    await replies.reach(200)
    t.equal(replies.items, Array.from({length: 200}, (_, n) => [n, n]))
  },

  async large_messages(t) {
    const channel = await t.joined()
    const text = "é".repeat(500_000)
    const [status, response] = await t.answer(channel.push("bounce", {text}))
    t.equal([status, response.text === text], ["ok", true])
    const bytes = new Uint8Array(1_000_000).map((_, i) => i % 251)
    const [, back] = await t.answer(channel.push("bounce", bytes.buffer))
    t.equal(hex(back) === hex(bytes), true)
  },

  async broadcast_to_all_to_the_others_and_from_outside(t) {
    const [ann, bob] = [await t.joined(), await t.joined()]
    const [of_ann, of_bob] = [t.messages(ann, "news"), t.messages(bob, "news")]
    t.equal(await t.answer(ann.push("shout", {n: 1})), ["ok", {}])
    t.equal(await t.answer(ann.push("shout_to_others", {n: 2})), ["ok", {}])
    await t.ask("broadcast", {topic: ROOM, event: "news", payload: {n: 3}})
    await t.ask("broadcast", {topic: "room:other", event: "news", payload: {n: 4}})
    await of_ann.reach(2)
    await of_bob.reach(3)
    t.equal(of_ann.items, [{n: 1}, {n: 3}])
    t.equal(of_bob.items, [{n: 1}, {n: 2}, {n: 3}])
  },

  async pushed_by_the_server(t) {
    const channel = await t.joined()
    const pushed = t.messages(channel, "news")
    channel.push("whisper", {n: 1})
    await pushed.reach(1)
    t.equal(pushed.items, [{n: 1}])
  },

  async binary_push_and_reply(t) {
    const channel = await t.joined()
    const bytes = new Uint8Array([0, 1, 127, 128, 255]).buffer
    const [status, response] = await t.answer(channel.push("echo", bytes))
    t.equal([status, response.constructor.name, hex(response)], ["ok", "ArrayBuffer", "00017f80ff"])
    const [error, reason] = await t.answer(channel.push("echo_error", bytes))
    t.equal([error, hex(reason)], ["error", "00017f80ff"])
    const [maybe, empty] = await t.answer(channel.push("echo_maybe", new ArrayBuffer(0)))
    t.equal([maybe, hex(empty)], ["maybe", ""])
    t.equal(await t.answer(channel.push("from_binary", bytes)), ["ok", {hex: "00017f80ff"}])
    const [, made] = await t.answer(channel.push("to_binary", {hex: "cafe"}))
    t.equal(hex(made), "cafe")
  },

  async binary_broadcast_and_server_push(t) {
    const [ann, bob] = [await t.joined(), await t.joined()]
    const [of_ann, of_bob] = [t.messages(ann, "news"), t.messages(bob, "news")]
    const bytes = new Uint8Array([1, 2, 255]).buffer
    t.equal(await t.answer(ann.push("shout", bytes)), ["ok", {}])
    ann.push("whisper", bytes)
    await of_ann.reach(2)
    await of_bob.reach(1)
    t.equal([of_ann.items.map(hex), of_bob.items.map(hex)], [["0102ff", "0102ff"], ["0102ff"]])
  },

  // ---- presence ----------------------------------------------------------------------------------------------------

  async presence_of_two_users(t) {
    const ann = t.present(await t.connected(), "ann", {device: "desk"})
    await ann.shows({ann: ["desk"]})
    const bob = t.present(await t.connected(), "bob", {device: "phone"})
    await bob.shows({ann: ["desk"], bob: ["phone"]})
    await ann.shows({ann: ["desk"], bob: ["phone"]})

    const pad = t.present(await t.connected(), "ann", {device: "pad"})
    await pad.shows({ann: ["desk", "pad"], bob: ["phone"]})
    await bob.shows({ann: ["desk", "pad"], bob: ["phone"]})

    const old = ann.presence.state.bob.metas[0].phx_ref
    t.equal(await t.answer(bob.channel.push("update", {device: "car"})), ["ok", {}])
    await ann.shows({ann: ["desk", "pad"], bob: ["car"]})
    const [meta] = ann.presence.state.bob.metas
    t.equal([meta.phx_ref_prev === old, meta.phx_ref !== old], [true, true])

    pad.channel.leave()
    await bob.shows({ann: ["desk"], bob: ["car"]})
    t.equal(await t.answer(bob.channel.push("untrack")), ["ok", {}])
    await ann.shows({ann: ["desk"]})
    await bob.shows({ann: ["desk"]})
    t.equal(ann.changes.items, [
      "ann joins", "ann joins", // by the state, and by the diff before it, as with Phoenix
      "bob joins", "ann joins", "bob joins", "bob leaves", "ann leaves", "bob leaves",
    ])
  },

  async presence_ends_with_its_connection(t) {
    const ann = t.present(await t.connected(), "ann", {device: "desk"})
    const socket = await t.connected()
    t.present(socket, "bob", {device: "phone"})
    await ann.shows({ann: ["desk"], bob: ["phone"]})
    socket.disconnect()
    await ann.shows({ann: ["desk"]})
  },

  async presence_in_sync_after_a_reconnect(t) {
    const [ann, bob] = [
      t.present(await t.connected({params: {user: "ann"}}), "ann", {device: "desk"}),
      t.present(await t.connected(), "bob", {device: "phone"}),
    ]
    await ann.shows({ann: ["desk"], bob: ["phone"]})
    ann.socket.reconnectTimer.timerCalc = () => 200 // time for what ann must not see while it happens
    const back = t.joins(ann.channel)
    await t.ask("disconnect", {id: "user:ann"})
    await bob.shows({bob: ["phone"]})
    bob.channel.leave()
    await bob.closed
    const cid = t.present(await t.connected(), "cid", {device: "watch"})
    await cid.shows({cid: ["watch"]})
    await back.reach(1)
    await ann.shows({ann: ["desk"], cid: ["watch"]})
    await cid.shows({ann: ["desk"], cid: ["watch"]})
  },

  async presence_in_sync_after_a_server_restart(t) {
    const ann = t.present(await t.connected(), "ann", {device: "desk"})
    const bob = t.present(await t.connected(), "bob", {device: "phone"})
    await ann.shows({ann: ["desk"], bob: ["phone"]})
    const [joins, others] = [t.joins(ann.channel), t.joins(bob.channel)]
    const refs = ann.refs()
    await t.ask("restart")
    await Promise.all([joins.reach(1), others.reach(1)])
    const renewed = () => ann.refs().every(ref => !refs.includes(ref))
    await ann.shows({ann: ["desk"], bob: ["phone"]}, renewed)
    await bob.shows({ann: ["desk"], bob: ["phone"]})
  },

  // ---- the connection's life ---------------------------------------------------------------------------------------

  async heartbeats_keep_a_connection(t) { // the server closes after 800 ms of silence
    const alive = await t.connected({heartbeatIntervalMs: 100})
    const silent = await t.connected({reconnectAfterMs: () => PATIENCE})
    const [closes, closes_of_the_silent] = [t.closes(alive), t.closes(silent)]
    const beats = t.seen("heartbeats")
    alive.onMessage(({topic, event, payload}) => topic === "phoenix" && beats.add([event, payload]))
    await closes_of_the_silent.reach(1)
    await beats.reach(10)
    t.equal(closes.items, [])
    t.equal(closes_of_the_silent.items, [1002])
    t.equal(beats.items[0], ["phx_reply", {status: "ok", response: {}}])
    t.equal(await t.wait("a ping", resolve => alive.ping(ms => resolve(ms >= 0))), true)
  },

  async heartbeat_timeout(t) { // a join that takes 1 s holds up the answers to heartbeats
    const socket = await t.connected({heartbeatIntervalMs: 200})
    const channel = socket.channel("room:stuck_once")
    const [joins, errors] = [t.joins(channel), t.errors(channel)]
    await joins.reach(1)
    t.equal(joins.items, [["ok", {attempt: 2}]])
    t.equal(errors.items, [{source: "transport", reason: "heartbeat_timeout"}])
  },

  async disconnected_by_id(t) {
    const [ann, bob] = [await t.connected({params: {user: "ann"}}), await t.connected({params: {user: "bob"}})]
    const [of_ann, of_bob] = [ann.channel(ROOM), bob.channel(ROOM)]
    const [joins, errors, closes, others] = [t.joins(of_ann), t.errors(of_ann), t.closes(ann), t.closes(bob)]
    await Promise.all([joins.reach(1), t.joins(of_bob).reach(1)])
    await t.ask("disconnect", {id: "user:ann"})
    await joins.reach(2)
    t.equal(closes.items, [1001])
    t.equal(errors.items, [{source: "transport", reason: "connection_closed"}])
    t.equal(others.items, [])
    t.equal(await t.answer(of_ann.push("echo", {n: 1})), ["ok", {n: 1}])
  },

  // ---- vsn 1.0.0 ---------------------------------------------------------------------------------------------------

  async v1_join_push_broadcast_and_leave(t) {
    const socket = await t.connected(V1)
    const channel = socket.channel(ROOM, {since: 7})
    t.equal(await t.answer(channel.join()), ["ok", {echo: {since: 7}}])
    t.equal(await t.answer(channel.push("echo", {text: "é漢🎉"})), ["ok", {text: "é漢🎉"}])
    t.equal(await t.answer(channel.push("echo_error", {n: 2})), ["error", {n: 2}])
    t.equal(await t.answer(channel.push("echo_maybe", {n: 3})), ["maybe", {n: 3}])
    const news = t.messages(channel, "news")
    channel.push("shout", {n: 4})
    channel.push("whisper", {n: 5})
    await t.ask("broadcast", {topic: ROOM, event: "news", payload: {n: 6}})
    await news.reach(3)
    t.equal(news.items.map(({n}) => n).sort(), [4, 5, 6])
    const closed = t.wait("the channel is closed", resolve => channel.onClose(resolve))
    t.equal(await t.answer(channel.leave()), ["ok", {}])
    await closed
  },

  async v1_and_v2_on_one_topic(t) {
    const [old, new_] = [await t.joined(V1), await t.joined()]
    const [of_old, of_new] = [t.messages(old, "news"), t.messages(new_, "news")]
    old.push("shout", {n: 1})
    await Promise.all([of_old.reach(1), of_new.reach(1)])
    new_.push("shout", {n: 2})
    await Promise.all([of_old.reach(2), of_new.reach(2)])
    t.equal([of_old.items, of_new.items], [[{n: 1}, {n: 2}], [{n: 1}, {n: 2}]])
  },

  async v1_join_refused_crash_and_heartbeats(t) {
    const socket = await t.connected({...V1, heartbeatIntervalMs: 50})
    const beats = t.seen("heartbeats")
    socket.onMessage(({topic, payload}) => topic === "phoenix" && beats.add(payload.status))
    const channel = socket.channel("room:flaky")
    const [answers, errors] = [t.joins(channel), t.errors(channel)]
    await answers.reach(2)
    channel.push("crash")
    await answers.reach(3)
    t.equal(answers.items, [["error", {reason: "flaky", attempt: 1}], ["ok", {attempt: 2}], ["ok", {attempt: 3}]])
    t.equal(errors.items, [{reason: "channel_crash"}])
    await beats.reach(2)
  },

  async v1_gets_no_binary(t) { // a real server crashes the channel
    const socket = await t.connected(V1)
    const channel = socket.channel(ROOM)
    const [joins, errors] = [t.joins(channel), t.errors(channel)]
    await joins.reach(1)
    channel.push("to_binary", {hex: "cafe"})
    await joins.reach(2)
    t.equal(errors.items, [{reason: "channel_crash"}])
  },
}

// ---- over long polling ----------------------------------------------------------------------------------------------

// Left out: heartbeats, of which there are none; binary messages to the client and V1, which phoenix.js cannot send so;
// what waits until the server has missed a client, which takes 15 s and more.
const polled = {
  ...Object.fromEntries([
    "connect_with_params",
    "join_ok",
    "join_refused_then_accepted",
    "join_of_a_topic_without_a_channel",
    "join_that_crashes",
    "join_timed_out_then_accepted",
    "rejoin_after_a_crash",
    "duplicate_join_the_client_leaves_the_old_one",
    "duplicate_join_the_server_replaces_the_old_one",
    "leave",
    "stopped_by_the_server",
    "push_ok_error_and_custom_status",
    "push_timeout",
    "push_before_the_join_is_answered",
    "replies_come_in_order_and_to_their_own_pushes",
    "broadcast_to_all_to_the_others_and_from_outside",
    "pushed_by_the_server",
    "presence_of_two_users",
  ].map(name => [name, scenarios[name]])),

  async polled_with_auth_token(t) {
    const socket = await t.connected({authToken: "sekret~~~~"})
    t.equal([socket.conn instanceof LongPoll, socket.conn.token.length > 20], [true, true])
  },

  async polled_refused_until_the_token_is_right(t) {
    const socket = t.socket({authToken: "wrong"})
    const closes = t.closes(socket)
    socket.connect()
    await closes.reach(1)
    t.equal(closes.items, [1008])
  },

  async polled_large_message_and_bytes_to_the_server(t) {
    const channel = await t.joined()
    const text = "é".repeat(500_000)
    const [status, response] = await t.answer(channel.push("bounce", {text}))
    t.equal([status, response.text === text], ["ok", true])
    const bytes = new Uint8Array([0, 1, 127, 128, 255]).buffer
    t.equal(await t.answer(channel.push("from_binary", bytes)), ["ok", {hex: "00017f80ff"}])
  },

  async polled_many_messages_at_once(t) { // more than one POST takes
    const channel = await t.joined()
    const replies = t.seen("replies")
    for (let n = 0; n < 350; n++) channel.push("bounce", {n}).receive("ok", ({n: back}) => replies.add([n, back]))
    await replies.reach(350)
    t.equal(replies.items, Array.from({length: 350}, (_, n) => [n, n]))
  },

  async polled_rejoin_after_a_server_restart(t) {
    const socket = await t.connected()
    const channels = [socket.channel(ROOM), socket.channel("room:other")]
    const joins = channels.map(channel => t.joins(channel))
    await Promise.all(joins.map(each => each.reach(1)))
    await t.ask("restart")
    await Promise.all(joins.map(each => each.reach(2)))
    t.equal(await t.answer(channels[0].push("echo", {n: 1})), ["ok", {n: 1}])
  },

  async polled_rejoin_after_a_cut(t) {
    const socket = await t.connected()
    const joins = t.joins(socket.channel(ROOM))
    await joins.reach(1)
    await t.ask("cut")
    await joins.reach(2)
  },

  async polled_because_the_websocket_does_not_open(t) {
    class Blocked {
      constructor() { setTimeout(() => this.onerror?.({}), 0) }
      close() {}
    }
    const socket = t.socket({transport: Blocked, longPollFallbackMs: 500})
    await t.open(socket)
    const channel = socket.channel(ROOM)
    await t.joins(channel).reach(1)
    t.equal(socket.conn instanceof LongPoll, true)
  },
}

// ---- what scenarios use ---------------------------------------------------------------------------------------------

class Theatre {
  constructor(stage, url, transport) {
    this.stage = stage
    this.url = url
    this.transport = transport
    this.sockets = []
  }

  /** Make the stage act on this scenario's server. */
  ask(what, details = {}) { return this.stage.ask(what, details) }

  /** A socket that is not connected yet; it tries again quickly. */
  socket(options = {}) {
    const quick = {reconnectAfterMs: () => 20, rejoinAfterMs: () => 20, timeout: PATIENCE, transport: this.transport}
    const socket = new Socket(this.url, {...quick, ...options})
    this.sockets.push(socket)
    return socket
  }

  async open(socket) {
    await this.wait("the connection", resolve => {
      socket.onOpen(resolve)
      socket.connect()
    })
    return socket
  }

  connected(options) { return this.open(this.socket(options)) }

  /** A joined channel of a new socket. */
  async joined(options) {
    const channel = (await this.connected(options)).channel(ROOM)
    await this.joins(channel).reach(1)
    return channel
  }

  /** How a push or a join ends: its status and response. */
  answer(push) {
    return this.wait(`the answer to ${push.event}`, resolve => {
      for (const status of ["ok", "error", "maybe", "timeout"]) {
        push.receive(status, response => resolve([status, response]))
      }
    })
  }

  /** How the channel's joins end; joins it if that was not done before. */
  joins(channel, timeout = PATIENCE) {
    const seen = this.seen(`joins of ${channel.topic}`)
    const push = channel.joinedOnce ? channel.joinPush : channel.join(timeout)
    const before = push.receivedResp
    for (const status of ["ok", "error", "timeout"]) {
      if (before) push.recHooks.push({status, callback: response => seen.add([status, response])}) // the next ones
      else push.receive(status, response => seen.add([status, response]))
    }
    return seen
  }

  errors(channel) {
    const seen = this.seen(`errors of ${channel.topic}`)
    channel.onError(seen.add)
    return seen
  }

  closes(socket) {
    const seen = this.seen("closes")
    socket.onClose(event => seen.add(event.code))
    return seen
  }

  messages(channel, event) {
    const seen = this.seen(event)
    channel.on(event, seen.add)
    return seen
  }

  /** A user with a presence in the lobby. */
  present(socket, name, meta) { return new Present(this, socket, name, meta) }

  seen(what) { return new Seen(this, what) }

  wait(what, register) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE)
      register(value => {
        clearTimeout(timer)
        resolve(value)
      })
    })
  }

  pause(ms) { return new Promise(resolve => setTimeout(resolve, ms)) }

  equal(actual, expected) {
    const [is, should] = [JSON.stringify(actual), JSON.stringify(expected)]
    if (is !== should) throw new Error(`is ${is}, should be ${should}`)
  }
}

/** Things that happen, in order. */
class Seen {
  constructor(t, what) {
    this.t = t
    this.what = what
    this.items = []
    this.changed = () => {}
    this.add = item => {
      this.items.push(item)
      this.changed()
    }
  }

  reach(count) {
    return this.t.wait(`${count} ${this.what}`, resolve => {
      this.changed = () => this.items.length >= count && resolve()
      this.changed()
    })
  }
}

class Present {
  constructor(t, socket, name, meta) {
    this.t = t
    this.socket = socket
    this.channel = socket.channel("presence:lobby", {name, meta})
    this.presence = new Presence(this.channel)
    this.changes = t.seen("changes")
    this.closed = new Promise(resolve => this.channel.onClose(resolve))
    this.changed = () => {}
    this.presence.onJoin(key => this.changes.add(`${key} joins`))
    this.presence.onLeave(key => this.changes.add(`${key} leaves`))
    this.presence.onSync(() => this.changed())
    this.channel.join()
  }

  /** Waits until the state is this, devices by name, and `holds` as well. */
  async shows(expected, holds = () => true) {
    const should = JSON.stringify(expected)
    const is = () => JSON.stringify(this.devices())
    try {
      await this.t.wait("a presence", resolve => {
        this.changed = () => is() === should && holds() && resolve()
        this.changed()
      })
    } catch {
      throw new Error(`the presence is ${is()}, should be ${should}`)
    }
  }

  devices() {
    const entries = this.presence.list((key, {metas}) => [key, metas.map(meta => meta.device).sort()])
    return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  refs() { return this.presence.list((_, {metas}) => metas.map(meta => meta.phx_ref)).flat() }
}

function hex(bytes) {
  return Array.from(new Uint8Array(bytes), byte => byte.toString(16).padStart(2, "0")).join("")
}

// ---- running them ---------------------------------------------------------------------------------------------------

/** The other side: questions go out, answers come back in order. */
class Stage {
  static async enter(WebSocket, url) {
    const socket = new WebSocket(url)
    await new Promise((resolve, reject) => {
      socket.onopen = resolve
      socket.onerror = reject
    })
    return new Stage(socket)
  }

  constructor(socket) {
    this.socket = socket
    this.waiting = []
    socket.onmessage = ({data}) => this.waiting.shift()(JSON.parse(data))
  }

  async ask(what, details = {}) {
    this.socket.send(JSON.stringify({what, ...details}))
    const {result, error} = await new Promise(resolve => this.waiting.push(resolve))
    if (error) throw new Error(`the stage: ${error}`)
    return result
  }
}

/**
 * Run every scenario, one after the other.
 *
 * WebSocket: of the environment. url: of the stage. polls: whether they are played over long polling. show: is told
 * `{name, ok, error, ms}` of each.
 */
export async function run({WebSocket, url, polls, show}) {
  const stage = await Stage.enter(WebSocket, url)
  for (const [name, play] of Object.entries(polls ? polled : scenarios)) {
    const theatre = new Theatre(stage, await stage.ask("begin", {name}), polls ? LongPoll : WebSocket)
    const start = performance.now()
    const result = {name, ok: true, error: ""}
    try {
      await play(theatre)
    } catch (error) {
      Object.assign(result, {ok: false, error: `${error.message ?? error}`})
    }
    result.ms = Math.round(performance.now() - start)
    show(result)
    await stage.ask("end", result)
    for (const socket of theatre.sockets) socket.disconnect()
  }
  await stage.ask("finish")
}
