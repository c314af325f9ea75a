"use strict";
// The page polls the server and shows the answers, always as text, never as markup. Nothing that the user may be
// reading moves. What is shown (view, search, filters, open message) is in the URL, behind the #.

const seenMS = 2000, hiddenMS = 30_000, step = 100; // step: rows at first, and rows that each "Show more" adds
const server = new URL("../", location.origin + location.pathname); // without a password, which the page's URL may have
const states = {any: "all", waiting: "waiting", dead: "dead", delivered: "delivered", dropped: "dropped"};
const columns = {tag: "tag", channel: "channel", waiting: "waiting", dead: "dead", last_hour: "last hour",
  delivered_at: "last delivery", last_error: "error"};
const advice = [
  [/channel_not_found|not_in_channel|archived/, "Check that the channel exists, is not archived and has the app."],
  [/auth|token_|account_inactive/, "The token is refused: put a valid one into the configuration and reload it."],
  [/missing_scope|access|restricted|two_factor/, "The app may not post there: give it the permission in Slack."],
  [/no_service|no_team|no_active|team_disabled|status (3|404|410)/, "The webhook is gone: configure a new one."],
  [/in between/, "A proxy or a login page answers, not Slack: check HTTPS_PROXY and slack_api_url."],
  [/rate ?_?limit|429/, "Nothing to do: Slack asked for this pause. What waits goes out after it."],
  [/status 5|internal_error|fatal_error|unavailable/, "Nothing to do: Slack is in trouble. What waits goes out later."],
  [/no such|refused|reach|no answer|reset|timeout|EOF|broken|x509|tls/, "Check DNS, the firewall and HTTPS_PROXY."],
  [/blocks|attachment|text|too_|invalid_/, "Slack refuses the content of the message: look at its payload."],
];
const $ = id => document.getElementById(id);
const picked = new Set(); // ids of the selected messages
const pinned = new Map(); // the trouble that is listed, by key; new trouble is in #news until it is noted
let stat, statAt, whole, turn = 0, timer, typing, shownKey;

const number = new Intl.NumberFormat("en-US").format;
const count = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

// h describes an element. patch gives node such children, and changes only what differs: focus and selection stay.
const h = (tag, props, ...children) => ({tag, props, children: children.flat().filter(child => child)});
const text = (className, words, title = "") => words && h("bdi", {className, title}, words);
const button = (words, onclick, props) => h("button", {type: "button", onclick, ...props}, words);
function patch(node, children) {
  children.forEach((child, i) => {
    let old = node.childNodes[i];
    const word = typeof child !== "object";
    if (!old || (word ? old.nodeType !== 3 : old.localName !== child.tag)) {
      const made = word ? document.createTextNode("") : document.createElement(child.tag);
      if (old) old.replaceWith(made); else node.append(made);
      old = made;
    }
    if (word) return old.data === child || (old.data = child);
    for (const key in old.made) if (!(key in child.props)) old[key] = typeof old[key] === "boolean" ? false : "";
    for (const key in child.props) if (old[key] !== child.props[key]) old[key] = child.props[key];
    old.made = child.props;
    patch(old, child.children);
  });
  while (node.childNodes.length > children.length) node.lastChild.remove();
}
const uniqueKeys = (seen = {}) => key => key + "\n" + (seen[key] = (seen[key] || 0) + 1);
const some = (...parts) => parts.filter(part => part);
const setText = (node, words) => patch(node, words ? [words] : []);

// list shows items by key, and its rows stay in place. Only when the user clicks on changes, it adds new items, removes
// those that are gone (until then they are struck out) and sorts again.
function list(body, changes, draw) {
  let fresh = new Map(), shown = new Map();
  const self = {
    grown: false, // the user asked for more rows: the next update shows them
    items: () => [...shown.values()],
    draw() { patch(body, [...shown].map(([key, item]) => draw(item, fresh.has(key) ? "" : " gone"))); },
    update(items) {
      fresh = new Map(items);
      if (self.grown || !shown.size) shown = new Map(fresh);
      self.grown = false;
      for (const key of shown.keys()) if (fresh.has(key)) shown.set(key, fresh.get(key));
      const added = [...fresh.keys()].filter(key => !shown.has(key)).length;
      const gone = [...shown.keys()].filter(key => !fresh.has(key)).length;
      changes.hidden = [...fresh.keys()].join("\n") === [...shown.keys()].join("\n");
      setText(changes, added ? `show ${number(added)} new` : gone ? `clear ${number(gone)} gone` : "sort again");
      self.draw();
    },
    empty() { shown = new Map(); self.update([]); },
  };
  changes.onclick = () => { self.grown = true; self.update(fresh); body.querySelector("a, button")?.focus(); };
  return self;
}

const formats = {}, local = Intl.DateTimeFormat().resolvedOptions().timeZone;
function clock(t) {
  const timeZone = view().utc ? "UTC" : local;
  formats[timeZone] ||= new Intl.DateTimeFormat("sv-SE", {dateStyle: "short", timeStyle: "medium", timeZone});
  return formats[timeZone].format(new Date(t)) + " " + timeZone;
}
const brief = t => clock(t).slice(clock(t).slice(0, 10) === clock(Date.now()).slice(0, 10) ? 11 : 0, 16);
function span(ms) {
  const s = Math.max(0, ms / 1000), units = [["d", 86_400], ["h", 3600], ["min", 60]];
  const [unit, size] = units.find(([, size]) => s >= 1.5 * size) || ["s", 1];
  return `${Math.round(s / size)} ${unit}`;
}
const ago = t => t ? span(Date.now() - new Date(t)) + " ago" : "";
const later = t => new Date(t) - Date.now();
const until = t => `${brief(t)}, in ${span(later(t))}`;

// why says what keeps a message, a tag or a destination waiting. Only the reason of a token's pause has "met by".
function why(kind, reason, next) {
  const what = /met by/.test(reason) ? "this token pauses" : "pauses";
  return kind === "paused" ? `${what}${next ? " until " + until(next) : ""}: ${reason}` : reason;
}
const troubleOf = t => t.trouble ? why(t.trouble, t.reason, t.next_attempt_at) : t.last_error;
const advise = reason => advice.find(([words]) => words.test(reason))?.[1] || "";

// view reads the view from the URL: #NAME?PARAMETERS.
function view() {
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  const parameters = Object.fromEntries(new URLSearchParams(query));
  return {...parameters, name: ["messages", "config"].includes(name) ? name : "overview"};
}
function to(name, params) {
  const given = Object.entries({utc: view().utc, ...params, name: ""}).filter(([, value]) => value);
  return "#" + name + (given.length ? "?" + new URLSearchParams(given) : "");
}
const same = changes => to(view().name, {...view(), ...changes});
const go = (hash, replace) => { history[replace ? "replaceState" : "pushState"](null, "", hash); show(); };

async function call(method, path, query, {body, poll} = {}) {
  const url = new URL(path, server), seconds = method === "GET" ? 10 : 120; // until a hanging server is reported
  url.search = new URLSearchParams(query);
  let answer, says, json;
  try {
    answer = await fetch(url, {method, body, cache: "no-store", headers: poll ? {"Slackboard-Poll": "yes"} : {},
      signal: AbortSignal.timeout(seconds * 1000)});
    says = await answer.text();
  } catch (err) {
    const what = err.name === "TimeoutError" ? `nothing comes within ${seconds} s` : "there is no connection";
    throw new Error(`The server does not answer: ${what}.`);
  }
  if (answer.ok && path === "config/app") return {ok: true, says};
  try { json = JSON.parse(says); } catch { /* something in between answered, not the server */ }
  if (!json || !answer.ok && !json.message) {
    throw new Error(`A proxy or a login page answers, not the server: status ${answer.status}.`);
  }
  if (answer.status === 401) throw new Error("The server asks for the token: load the page again.");
  return {ok: answer.ok, status: answer.status, json, says: json.message};
}
async function get(path, query) {
  const answer = await call("GET", path, query, {poll: true});
  if (!answer.ok) throw new Error(`The server refuses: ${answer.says}.`);
  return answer.json;
}

const tagList = list($("tag-rows"), $("tag-changes"), (t, gone) => {
  const cell = (kind, title, ...inside) => h("td", {role: "cell", className: kind, title}, ...inside);
  const hot = (kind, n, hot = "hot") => cell(`${kind} ${n ? hot : "zero"}`, "", number(n)), last = t.delivered_at;
  const link = to("messages", t.tag ? {tag: t.tag} : {q: t.channel});
  return h("tr", {role: "row", className: gone},
    cell("tag", t.tag, h("a", {href: link}, text("", t.tag || "(payload)"))),
    cell("channel", t.channel, text("", t.channel)), hot("waiting", t.waiting),
    hot("dead", t.dead), hot("hour", t.last_hour, ""), cell("last", last ? clock(last) : "", ago(last)),
    cell(t.trouble === "paused" ? "error" : "error bad", troubleOf(t), text("", troubleOf(t))));
});

const levels = {info: "info", ok: "info", warn: "warn", warning: "warn", crit: "crit", critical: "crit", error: "crit"};
const messageList = list($("message-rows"), $("message-changes"), (m, gone) => {
  const open = view().id === m.id, level = m.level === "message" ? "" : m.level;
  return h("li", {id: "m-" + m.id, className: (open ? "open" : "") + gone},
    h("input", {type: "checkbox", ariaLabel: "select message " + m.id, disabled: !lives(m), checked: picked.has(m.id),
      onchange: event => pick([m.id], event.target.checked)}),
    button([h("span", {className: "line"}, text("state " + m.state, m.state),
      text("ago", ago(m.accepted_at), "accepted " + clock(m.accepted_at)), text("tag", m.tag || "(payload)", m.tag),
      text("channel", "→ " + (m.channel || "the webhook's channel"), m.channel), text("host", m.host, m.host),
      text("sender", m.sender && "by " + m.sender, m.sender)),
    h("span", {className: "line"}, text("level " + (levels[level.toLowerCase()] || ""), level),
      text("title", m.title), text("text", m.text.trimStart().split("\n", 1)[0].slice(0, 300)),
      text(m.trouble === "paused" ? "lane" : "lane bad", lane(m)))],
    () => go(same({id: open ? "" : m.id})), {className: "head", ariaExpanded: String(open)}),
    open && whole?.id === m.id && detail(whole));
});
const lives = m => m.state === "waiting" || m.state === "dead";

// lane says where in its queue a message is and why it waits or, of a dead letter, why it was not delivered.
function lane(m) {
  if (m.state !== "waiting") return m.error;
  const next = m.next_attempt_at;
  return some(m.before && `${number(m.before)} before it`, !next && !m.before && "being posted",
    m.trouble !== "paused" && later(next || 0) > 1000 && `next attempt in ${span(later(next))}`,
    why(m.trouble, m.error, next)).join(" · ");
}
function detail(m) {
  const facts = [["accepted", `${clock(m.accepted_at)}, ${ago(m.accepted_at)}`],
    ["delivered", m.delivered_at && clock(m.delivered_at)], ["dropped", m.dropped_at && clock(m.dropped_at)],
    ["attempts", m.attempts ? number(m.attempts) : m.state === "waiting" && "none yet"],
    ["before it", m.before && count(m.before, "message") + " of its destination"],
    ["next attempt", m.next_attempt_at ? until(m.next_attempt_at) : m.state === "waiting" && "now"],
    [m.trouble === "paused" ? "pause" : "reason", why(m.trouble, m.error, m.next_attempt_at)],
    ["what to do", m.error && advise(m.error)], ["tag", m.tag], ["channel", m.channel], ["host", m.host],
    ["sender", m.sender], ["level", m.level], ["title", m.title]];
  const copy = e => getSelection().selectAllChildren(e.target.previousElementSibling) || document.execCommand("copy");
  const whole = (ariaLabel, words) => [h("h3", {}, ariaLabel),
    h("pre", {dir: "auto", tabIndex: 0, role: "region", ariaLabel}, words)];
  const named = (words, verb, className = "") =>
    button(words, () => act(verb, [m.id]), {ariaLabel: `${words}: message ${m.id}`, hidden: !lives(m), className});
  return h("div", {className: "detail"}, h("p", {className: "tools"}, h("code", {}, m.id), button("Copy id", copy),
    named("Send again", "again"), named("Drop", "drop", "danger"),
    m.tag && h("a", {href: to("messages", {tag: m.tag})}, "Tag ", text("", m.tag))),
  h("dl", {}, facts.filter(([, words]) => words).map(([name, words]) =>
    h("div", {}, h("dt", {}, name), h("dd", {dir: "auto"}, words)))),
  whole("Text", m.text), whole("What Slack gets", JSON.stringify(m.payload, null, 2) || "nothing: its tag is gone"));
}

// confirmed asks the user whether to do verb to what. Its promise resolves to true for yes.
function confirmed(verb, what) {
  const yes = verb === "again" ? `Send ${what} again` : `Drop ${what}`;
  setText($("ask-text"), yes + "?" + (verb === "again" ? "" : " What is dropped will not be delivered."));
  setText($("ask-yes"), yes);
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise(answered => { $("ask").onclose = () => answered($("ask").returnValue === "yes"); });
}
// act asks the user, sends messages again or drops them, and shows how many had which result.
async function act(verb, ids, tag, n) {
  if (!await confirmed(verb, tag ? `all ${count(n, "dead letter")} of ${tag}` : count(ids.length, "message"))) return;
  const did = new Map(), done = verb === "again" ? "put at the end of its queue" : "dropped";
  const [method, end] = verb === "again" ? ["POST", "/retry"] : ["DELETE", ""];
  for (const id of ids) {
    let result, times = 1;
    try {
      const answer = await call(method, "messages" + (tag ? end : "/" + id + end), tag ? id : {});
      result = answer.ok ? answer.json.did || done : answer.says;
      if (answer.ok) times = answer.json.count;
    } catch (err) { result = err.message; }
    did.set(result, (did.get(result) || 0) + times);
    note([...did].map(([what, n]) => `${count(n, "message")}: ${what}`).join("; "));
  }
  pick([...picked], false);
  refresh();
}
const note = words => { setText($("note"), words); $("note").hidden = !words; };
function pick(ids, on) {
  for (const id of ids) picked[on ? "add" : "delete"](id);
  const what = count(picked.size, "message"), clear = () => pick([...picked], false);
  const all = () => pick(messageList.items().filter(lives).map(m => m.id), true);
  $("picked").hidden = !picked.size;
  patch($("picked"), [h("span", {}, what), button(`Send ${what} again`, () => act("again", [...picked])),
    button(`Drop ${what}`, () => act("drop", [...picked]), {className: "danger"}),
    button("Select all shown", all), button("Clear", clear)]);
  messageList.draw();
}

// drawStat shows the state of the server: as a sentence, numbers, the chart, the title and the icon.
function drawStat() {
  const hour = stat.last_hour, sum = half => hour[half].reduce((n, count) => n + count, 0);
  const most = Math.max(1, ...hour.flat()), accepted = number(sum(0)), delivered = number(sum(1));
  const cell = (id, name, n, className = "") => h("div", {}, h("dt", {}, name), h("dd", {id, className}, n));
  patch($("numbers"), [cell("waiting", "waiting now", number(stat.waiting)),
    cell("dead", "dead letters now", number(stat.dead), stat.dead ? "bad" : ""),
    cell("", "accepted in the last hour", accepted), cell("", "delivered in the last hour", delivered)]);
  setText($("sentence"), stat.sentence);
  $("sentence").className = stat.state;
  const said = stat.state + stat.trouble_total; // the sentence is read aloud again only if this changes
  if ($("spoken").dataset.said !== said) setText($("spoken"), stat.sentence);
  $("spoken").dataset.said = said;
  const bar = (n, x) => n ? `M${x} 60v${-Math.max(2, n / most * 60)}h2.1V60z` : "";
  [...$("chart").children].forEach((path, half) =>
    path.setAttribute("d", hour[half].map((n, i) => bar(n, i * 5 + half * 2.3)).join("")));
  $("chart").ariaLabel = `last hour: ${accepted} accepted, ${delivered} delivered, ${number(most)} a minute at most`;
  setText($("most"), number(most));
  setText($("from"), brief(Date.now() - 3600_000));
  const since = ["accepted", "delivered", "dropped"].map(name => `${number(stat[name])} ${name}`).join(", ");
  setText($("since"), `Since the start at ${brief(stat.started_at)}, ${ago(stat.started_at)}: ${since}` +
    (stat.found_at_start ? `; ${count(stat.found_at_start, "message")} waited or were dead at the start.` : "."));
  setText($("about"), `Version ${stat.version}, started ${clock(stat.started_at)}.`);
  const failing = stat.trouble.filter(t => t.kind !== "paused").length, full = stat.state === "full";
  const wrong = some(full && "full", failing && `${failing} failing`, stat.dead && `${number(stat.dead)} dead`,
    stat.state === "paused" && "pause");
  tell(wrong, full || failing || stat.dead ? "#cf222e" : wrong.length ? "#9a6700" : "#1a7f37");
}
// tell puts what is wrong into the title and the icon, for users who see only the browser's tab.
function tell(wrong, color) {
  document.title = (wrong.length ? `(${wrong.join(", ")}) ` : "") + "Slackboard";
  const path = wrong.length ? "M8 3v6M8 11v2" : "M4 8l3 3l5-6";
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8" ` +
    `fill="${color}"/><path d="${path}" fill="none" stroke="#fff" stroke-width="2"/></svg>`;
  $("icon").href = "data:image/svg+xml," + encodeURIComponent(svg);
}

// drawTrouble lists what is in trouble. New trouble is in a box of its own, #news, until the user clicks "Noted".
function drawTrouble(tags) {
  const where = (state, tag, channel) => to("messages", tag ? {state, tag} : {state, q: channel});
  const webhook = "the webhook's channel", does = {failing: " fails", unreachable: " cannot be reached"};
  const unique = uniqueKeys();
  const lines = stat.trouble.map(({kind, channel, destinations: n, waiting, ...t}) => ({...t, kind, n: waiting,
    key: unique([kind, n > 1 ? t.since : channel].join("\n")), unit: " wait", does: does[kind],
    name: (channel || webhook) + (n > 1 ? ` and ${n - 1} more` : ""),
    href: where("waiting", "", n > 1 ? "" : channel)}));
  lines.push(...tags.filter(t => t.dead).map(({tag, channel, dead: n, last_error: reason}) => ({kind: "dead", reason, n,
    key: "dead\n" + tag + "\n" + channel, unit: " dead", name: tag || channel, href: where("dead", tag, channel)})));
  const rank = t => ({dead: 1, paused: 2})[t.kind] || 0;
  lines.sort((a, b) => rank(a) - rank(b) || b.n - a.n);
  const draw = (t, gone) => h("li", {className: t.kind + gone}, h("a", {href: t.href}, text("", t.name)), t.does, ": ",
    text("n", number(t.n) + t.unit), " · ", text("reason", why(t.kind, t.reason, t.next_attempt_at)),
    text("when", t.since && ` · since ${brief(t.since)}, ${ago(t.since)}`, t.since ? clock(t.since) : ""),
    text("when", t.kind !== "paused" && t.next_attempt_at && ` · next attempt ${until(t.next_attempt_at)}`),
    text("advice", advise(t.reason)));
  const all = new Map(lines.map(t => [t.key, t])), first = !pinned.size;
  for (const [key, t] of all) if (first || pinned.has(key)) pinned.set(key, t);
  if (first) pinned.set("", {}); // not empty any more: from now on, new trouble goes into #news
  const shown = [...pinned].filter(([key]) => key);
  patch($("trouble"), shown.length ? shown.map(([key, t]) => draw(t, all.has(key) ? "" : " gone"))
    : [h("li", {className: "none"}, "Nothing: no destination fails or pauses, and there are no dead letters.")]);
  const news = lines.filter(t => !pinned.has(t.key));
  patch($("news").firstChild, news.map(t => draw(t, "")));
  $("news").hidden = !news.length;
}

function drawTags(at) {
  const unique = uniqueKeys(), {tags, tags_found: found, tags_total: total} = stat;
  tagList.update(tags.map(t => [unique(t.tag + "\n" + t.channel), t]));
  patch($("tag-heads"), Object.entries(columns).map(([by, name]) => {
    const up = ["tag", "channel", "last_error"].includes(by) ? by : "-" + by, down = up === by ? "-" + by : by;
    const ariaSort = at.sort === by ? "ascending" : at.sort === "-" + by ? "descending" : "none";
    const turn = () => go(same({sort: at.sort === up ? down : at.sort === down ? "" : up}));
    return h("th", {role: "columnheader", scope: "col", ariaSort, className: by}, button(name, turn));
  }));
  const which = at.q ? ` with “${at.q}”, of ${number(total)}` : at.sort ? "" : ", those in trouble first";
  patch($("tag-count"), [`${number(tags.length)} of ${number(found)}${which} `,
    ...at.q ? [h("a", {href: to("messages", {q: at.q})}, "search messages for “", text("", at.q), "”")] : []]);
  $("more-tags").hidden = tags.length >= found;
  setText($("more-tags"), `Show ${number(Math.min(step, found - tags.length))} more`);
}

// drawTag shows the destinations and settings of a tag, and the buttons for all of its dead letters.
function drawTag(tag, tags, dead) {
  if (!tag) return patch($("tag-detail"), []);
  const all = verb => () => act(verb, [verb === "again" ? {tag} : {state: "dead", tag}], tag, dead), hidden = !dead;
  const settings = t => ["username", "icon_emoji", "parse"].map(key => `${key} ${t[key] || "none"}`).join(", ");
  const counts = t => `${number(t.waiting)} waiting, ${number(t.dead)} dead, ${number(t.last_hour)} accepted in the ` +
    `last hour, ${t.delivered_at ? "last delivery " + ago(t.delivered_at) : "no delivery since the start"}`;
  patch($("tag-detail"), [h("h2", {}, text("", tag)), h("ul", {}, tags.map(t => h("li", {},
    text("", "→ " + (t.channel || "the webhook's channel")), " · ", text("settings", settings(t)), " · ", counts(t),
    text(t.trouble === "paused" ? "reason" : "reason bad", troubleOf(t) && " · " + troubleOf(t))))),
  h("p", {className: "tools"}, button(["Send a test to ", text("", tag)], () => openTest(tag)),
    button(`Send all ${count(dead, "dead letter")} again`, all("again"), {hidden}),
    button(`Drop all ${count(dead, "dead letter")}`, all("drop"), {hidden, className: "danger"}),
    h("a", {href: same({tag: "", id: ""})}, "Messages of all tags"))]);
}

async function loadMessages(mine, at) {
  const state = at.state in states ? at.state : "any", order = at.order || (state === "waiting" ? "oldest" : "newest");
  const limit = Math.min(+at.n || step, 10_000), {tag = "", q = "", id} = at;
  const answer = await call("GET", "messages", {state, tag, q, order, limit}, {poll: true});
  const tags = tag ? (await get("stat/app", {tags: 20, tag})).tags : [];
  const one = id && answer.ok && await call("GET", "messages/" + encodeURIComponent(id), {}, {poll: true});
  if (mine !== turn) return;
  if (!answer.ok) {
    messageList.empty();
    return note(`${answer.says}. From here: ssh -L 29800:127.0.0.1:PORT HOST, then open http://127.0.0.1:29800/ui/`);
  }
  const {messages, total, totals} = answer.json, rows = messages.map(m => [m.id, m]);
  if (one && !one.ok) note(one.says);
  const opened = whole?.id !== id;
  whole = one?.ok && one.json;
  if (whole && !messages.some(m => m.id === id)) rows.unshift([id, whole]);
  messageList.update(rows);
  if (whole && opened) $("m-" + id)?.children[1].scrollIntoView({block: "nearest"});
  patch($("states"), Object.entries(states).map(([name, words]) => h("a", {ariaCurrent: String(name === state),
    href: same({state: name, id: "", n: "", order: ""})}, `${words} ${number(totals[name])}`)));
  setText($("order"), order + " first ⇅");
  const which = some(tag && `for tag ${tag}`, q && `with “${q}”`).join(" ");
  const others = Object.keys(states).slice(1).filter(name => totals[name]).map(name => totals[name] + " " + name);
  const instead = others.join(", ") || `${stat.waiting} waiting, ${stat.dead} dead in all`;
  setText($("count"), total ? `${number(messages.length)} of ${count(total, "message")} ${which}`
    : `No ${state === "any" ? "" : states[state]} message ${which}; there are ${instead}`);
  $("more").hidden = messages.length >= total;
  setText($("more"), `Show ${number(Math.min(step, total - messages.length))} more of ${number(total)}`);
  drawTag(tag, tags, q ? 0 : totals.dead);
}

// refresh updates what is seen. A later call voids an earlier one. A slow server is asked less often.
async function refresh() {
  clearTimeout(timer);
  let began = performance.now(), mine = ++turn, at = view(), seen = !document.hidden;
  const tags = seen && at.name === "overview";
  const query = tags && {tags: Math.min(+at.n || step, 10_000), sort: at.sort || "trouble", q: at.q || ""};
  try {
    const answer = await get("stat/app", query || {tags: 30});
    const worst = query && (at.q || at.sort) ? (await get("stat/app", {tags: 30})).tags : answer.tags;
    if (mine !== turn) return;
    if (!answer.sentence) throw new Error("A proxy or a login page answers, not the server.");
    [stat, statAt] = [answer, Date.now()];
    drawStat();
    drawTrouble(worst);
    if (tags) drawTags(at);
    if (seen && at.name === "messages") await loadMessages(mine, at);
    if (mine === turn) offline("");
  } catch (err) {
    if (mine === turn) offline(err.message);
    began = performance.now(); // the time that a failed request took must not delay the next one
  }
  const pause = document.hidden ? hiddenMS : Math.max(seenMS, 5 * (performance.now() - began));
  if (mine === turn) timer = setTimeout(refresh, pause);
}
// offline tells the user why there are no new data, and from when the shown data are. "" removes this text.
function offline(words) {
  setText($("offline"), words && words + (statAt ? ` What is shown is from ${clock(statAt)}.` : ""));
  $("offline").hidden = !words;
  document.body.classList.toggle("stale", !!words);
  if (words) tell(["no answer"], "#57606a");
}

function show() {
  const at = view(), key = JSON.stringify([at.name, at.state, at.q, at.tag, at.order, at.sort, at.utc]);
  document.body.dataset.view = at.name;
  for (const link of document.querySelectorAll("nav > a")) {
    const name = link.hash.slice(1).split("?")[0];
    link.href = to(name, {});
    link.ariaCurrent = name === at.name ? "page" : "false";
    $("view-" + name).hidden = name !== at.name;
  }
  $("utc").ariaPressed = String(!!at.utc);
  if (key !== shownKey) {
    for (const rows of [tagList, messageList]) rows.empty();
    for (const id of ["count", "tag-count"]) setText($(id), "");
    note("");
    pick([...picked], false);
    if (at.name === "overview") pinned.clear();
  }
  shownKey = key;
  if (document.activeElement !== $("search")) $("search").value = at.q || "";
  if (at.name === "config") call("GET", "config/app").then(answer => setText($("config-text"), answer.says), () => {});
  refresh();
}

async function suggest(q) {
  const {tags} = await get("stat/app", {tags: 20, q});
  patch($("suggestions"), [...new Set(tags.map(t => t.tag || t.channel))].map(value => h("option", {value})));
}
const search = replace => {
  const q = $("search").value, here = view().name === "messages";
  clearTimeout(typing);
  go(here || replace ? same({q, id: "", n: ""}) : to("messages", {q}), replace);
};
const typed = () => { suggest($("search").value).catch(() => {}); if (view().name !== "config") search(true); };
$("search").oninput = () => { clearTimeout(typing); typing = setTimeout(typed, 200); };
$("search-form").onsubmit = event => { event.preventDefault(); search(false); };

function openTest(tag) {
  if (tag) $("test-form").elements.tag.value = tag;
  setText($("answer"), "");
  $("test").showModal();
}
$("test-form").onsubmit = async event => {
  event.preventDefault();
  const {sync, ...form} = Object.fromEntries(new FormData(event.target));
  setText($("answer"), "…");
  try {
    const body = JSON.stringify({...form, host: "the page", sync: !!sync});
    const {ok, status, json, says} = await call("POST", "notify", {}, {body});
    setText($("answer"), ok ? `${sync ? "Slack has it" : "Accepted"}: ${json.ids}` : `${status}: ${says}`);
  } catch (err) { setText($("answer"), err.message); }
  refresh();
};
$("more").onclick = () => { messageList.grown = true; go(same({n: (+view().n || step) + step}), true); };
$("more-tags").onclick = () => { tagList.grown = true; go(same({n: (+view().n || step) + step}), true); };
$("order").onclick = () => go(same({n: "", order: $("order").textContent.startsWith("oldest") ? "newest" : "oldest"}));
$("utc").onclick = () => go(same({utc: view().utc ? "" : "1"}), true);
$("noted").onclick = () => { pinned.clear(); refresh(); };
$("test-open").onclick = () => openTest(view().tag);
$("test-close").onclick = () => $("test").close();
addEventListener("popstate", show);
document.addEventListener("visibilitychange", refresh);
show();
