"use strict";
// The page asks the server every two seconds and writes text into what is there. It shows everything as text, never as markup, and never moves
// a row that somebody may be reading: rows change in place, and what is new waits behind a button.

const everyMS = 2000, shownTags = 200, shownMessages = 100;
const $ = id => document.getElementById(id);
let stat = null, state = "dead";
let turn = 0, asking = false; // the last refresh, and whether it goes on

async function call(method, path, body) {
  const patience = AbortSignal.timeout(method === "GET" ? 10_000 : 120_000); // a server that hangs is to be told, too
  const answer = await fetch(path, {method, body, signal: patience, headers: body ? {"Content-Type": "application/json"} : {}, cache: "no-store"});
  const text = await answer.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* not JSON: shown as text */ }
  return {status: answer.status, ok: answer.ok, text, json, says: json?.message || text};
}

const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const number = n => n.toLocaleString("en-US");

function ago(time) {
  if (!time) return "";
  const s = Math.max(0, Math.round((Date.now() - new Date(time)) / 1000));
  if (s < 60) return s + " s ago";
  if (s < 3600) return Math.floor(s / 60) + " min ago";
  if (s < 86400) return Math.floor(s / 3600) + " h ago";
  return Math.floor(s / 86400) + " d ago";
}

function clock(time) {
  return time ? new Date(time).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "";
}

// fill makes the cells of a row once and then only changes their texts. What is not a text is made by a function, once.
function fill(row, cells) {
  cells.forEach(([name, content, kind], i) => {
    const made = row.cells[i], cell = made || row.insertCell();
    cell.dataset.name = name;
    cell.className = kind || "";
    if (typeof content !== "function") setText(cell, content);
    else if (!made) cell.append(...content());
  });
}

function element(tag, text, kind) {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = kind || "";
  return node;
}

function button(text, onclick, kind) {
  const node = element("button", text, kind);
  node.addEventListener("click", onclick);
  return node;
}

// A list shows rows by key. Keys that are new wait until show() is called; those that went stay, dimmed, until then.
function list(body, changes, draw) {
  let items = new Map();
  const self = {
    update(fresh) {
      const next = new Map(fresh);
      const shown = new Set([...body.rows].map(row => row.dataset.key));
      items = next;
      if (shown.size === 0) return self.show();
      for (const row of body.rows) {
        const item = next.get(row.dataset.key);
        row.classList.toggle("gone", !item);
        if (item) draw(row, item);
      }
      const added = [...next.keys()].filter(key => !shown.has(key)).length;
      const gone = [...shown].filter(key => !next.has(key)).length;
      changes.hidden = added + gone === 0;
      setText(changes, added ? `show ${added} new` : `clear ${gone} gone`);
    },
    show() {
      const rows = [...items].map(([key, item]) => {
        const row = document.createElement("tr");
        row.dataset.key = key;
        draw(row, item);
        return row;
      });
      body.replaceChildren(...rows);
      changes.hidden = true;
    },
    empty() { items = new Map(); body.replaceChildren(); },
  };
  changes.addEventListener("click", self.show);
  return self;
}

const tagList = list($("tag-rows"), $("tag-changes"), (row, t) => {
  fill(row, [
    ["tag", t.tag || "(payload)"], ["channel", t.channel], ["username", t.username], ["icon", t.icon_emoji], ["parse", t.parse],
    ["count", number(t.accepted), "n"], ["delivered", number(t.delivered), "n"],
    ["waiting", number(t.waiting), t.waiting ? "n bad" : "n zero"], ["dead", number(t.dead), t.dead ? "n bad" : "n zero"],
    ["last", ago(t.last_at), "when"], ["error", t.last_error, "bad"],
  ]);
});

const messageList = list($("message-rows"), $("message-changes"), (row, m) => {
  row.dataset.level = m.level;
  fill(row, [
    ["accepted", clock(m.accepted_at)], ["tag", m.tag || "(payload)"], ["channel", m.channel], ["host", m.host],
    ["message", () => [element("b", m.title), element("span", m.text, "text")], "message"],
    ["attempts", m.attempts ? number(m.attempts) : "", "n"],
    [m.delivered_at ? "delivered" : "next", clock(m.delivered_at || m.next_attempt_at), "when"], ["reason", m.error, "bad"],
    ["do", () => m.state === "delivered" ? [] : [
      button("send again", () => act("POST", `/messages/${m.id}/retry`, `Send message ${m.id} again?`, "Send again")),
      button("drop", () => act("DELETE", `/messages/${m.id}`, `Drop message ${m.id}? It will not be delivered.`, "Drop"), "danger"),
    ], "do"],
  ]);
});

// ask shows a question and returns true for yes.
function ask(question, yes) {
  setText($("ask-text"), question);
  setText($("ask-yes"), yes);
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise(answered => $("ask").addEventListener("close", () => answered($("ask").returnValue === "yes"), {once: true}));
}

async function act(method, path, question, yes) {
  if (!await ask(question, yes)) return;
  try {
    const answer = await call(method, path);
    note(answer.ok ? "" : answer.says);
  } catch (err) {
    note("the server did not answer: " + err.message);
  }
  await refresh();
}

function note(text) {
  setText($("message-note"), text);
  $("message-note").hidden = !text;
}

function drawChart(minutes) {
  const most = Math.max(1, ...minutes.flat());
  ["accepted", "delivered"].forEach((kind, half) => {
    const bars = minutes.map((counts, i) => `M${i * 5 + half * 2.2} 60v${-counts[half] / most * 58}h2V60z`);
    $("chart").querySelector("." + kind).setAttribute("d", bars.join(""));
  });
  setText($("peak"), `, ${number(most)} at most`);
}

function drawStat() {
  setText($("sentence"), stat.sentence);
  $("sentence").className = stat.state;
  document.title = (stat.state === "ok" ? "" : "● ") + "Slackboard";
  for (const key of ["waiting", "dead", "accepted", "delivered"]) setText($(key), number(stat[key]));
  $("waiting").className = stat.waiting && stat.state !== "ok" ? "warn" : "";
  $("dead").className = stat.dead ? "bad" : "";
  drawChart(stat.last_hour);
  setText($("about"), `version ${stat.version}, up since ${clock(stat.started_at)} (${ago(stat.started_at).replace(" ago", "")})`);
}

function drawTags() {
  const seen = new Map();
  tagList.update(stat.tags.map(t => {
    const name = t.tag + " " + t.channel, n = (seen.get(name) || 0) + 1;
    seen.set(name, n);
    return [name + " " + n, t];
  }));
  const shown = stat.tags.length;
  setText($("tag-count"), shown < stat.tags_found ? `${number(shown)} of ${number(stat.tags_found)}, trouble first` : `${number(shown)} of ${number(stat.tags_total)}`);
}

async function loadMessages(mine) {
  const query = new URLSearchParams({state, tag: $("message-tag").value, q: $("message-search").value, limit: shownMessages});
  const answer = await call("GET", "/messages?" + query);
  if (mine !== turn) return;
  const tag = $("message-tag").value;
  $("all-of-tag").hidden = !(answer.ok && state === "dead" && tag && answer.json.total > 0);
  setText($("retry-all"), `send all of ${tag} again`);
  setText($("drop-all"), `drop all of ${tag}`);
  if (!answer.ok) {
    messageList.empty();
    setText($("message-count"), "");
    return note(answer.says + ". From here: ssh -L 29800:127.0.0.1:PORT HOST, then open http://127.0.0.1:29800/ui/");
  }
  messageList.update(answer.json.messages.map(m => [m.id, m]));
  const {total, messages} = answer.json;
  setText($("message-count"), total > messages.length ? `the newest ${number(messages.length)} of ${number(total)}` : `${number(total)} ${state}`);
}

async function loadConfig() {
  const answer = await call("GET", "/config/app");
  setText($("config-text"), answer.text);
}

const view = () => (location.hash || "#tags").slice(1);

// refresh brings up to date what is in view; a later one makes the answers of an earlier one void. It says so when the server
// does not answer.
async function refresh() {
  const mine = ++turn;
  asking = true;
  try {
    const query = new URLSearchParams({tags: ["tags", "send"].includes(view()) ? shownTags : 0, q: $("tag-filter").value});
    const answer = await call("GET", "/stat/app?" + query);
    if (mine !== turn) return;
    if (!answer.ok) throw new Error(answer.says);
    stat = answer.json;
    drawStat();
    if (view() === "tags") drawTags();
    if (view() === "send") $("tag-names").replaceChildren(...stat.tags.map(t => new Option("", t.tag)));
    if (view() === "messages") await loadMessages(mine);
    $("offline").hidden = true;
  } catch (err) {
    if (mine !== turn) return;
    setText($("offline"), `The server does not answer (${err.message}). What is shown is ${stat ? "from before" : "nothing yet"}.`);
    $("offline").hidden = false;
  } finally {
    if (mine === turn) asking = false;
  }
}

function show() {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#" + view()) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  tagList.empty();
  messageList.empty();
  if (view() === "config") loadConfig().catch(() => {});
  refresh();
}

function restart(fill) { return () => { fill.empty(); note(""); refresh(); }; }

$("tag-filter").addEventListener("input", restart(tagList));
$("message-tag").addEventListener("input", restart(messageList));
$("message-search").addEventListener("input", restart(messageList));
$("states").addEventListener("click", event => {
  if (!event.target.dataset.state) return;
  state = event.target.dataset.state;
  for (const b of $("states").children) b.setAttribute("aria-pressed", b === event.target);
  restart(messageList)();
});
$("retry-all").addEventListener("click", () => {
  const tag = $("message-tag").value;
  act("POST", "/messages/retry?" + new URLSearchParams({tag}), `Send all dead letters of ${tag} again?`, "Send all again");
});
$("drop-all").addEventListener("click", () => {
  const tag = $("message-tag").value;
  act("DELETE", "/messages?" + new URLSearchParams({state: "dead", tag}), `Drop all dead letters of ${tag}? They will not be delivered.`, "Drop all");
});
$("send-form").addEventListener("submit", async event => {
  event.preventDefault();
  const form = new FormData(event.target), sync = form.get("sync") !== null;
  const colors = {info: "#00ff00", warn: "#ffdd00", crit: "#ff0000"}, level = form.get("level"), title = form.get("title"), text = form.get("text");
  let path = "/notify", body = {tag: form.get("to"), level, title, text, host: "the page", sync};
  if (form.get("kind") === "channel") {
    const payload = {channel: form.get("to")};
    if (colors[level] || title) payload.attachments = [{color: colors[level], title, text, fallback: text}]; else payload.text = text;
    path = "/notify-directly";
    body = {payload, host: "the page", sync};
  }
  $("answer").hidden = false;
  setText($("answer"), "…");
  try {
    const answer = await call("POST", path, JSON.stringify(body));
    setText($("answer"), `${answer.status} ${answer.text}`);
  } catch (err) {
    setText($("answer"), "the server did not answer: " + err.message);
  }
  refresh();
});
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => { if (!document.hidden && !asking) refresh(); }, everyMS);
show();
