// The page at /ui: it asks /admin/status and /content/, and changes nothing.
// What is shown may come from strangers (URLs, file names, messages), so it is only ever set as text.
"use strict";

const STATUS_SECONDS = 2;
const CONTENTS_SECONDS = 15;
const PAGE = 100;
const MAX_SAMPLES = 2000;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

const byId = (id) => document.getElementById(id);
const samples = []; // of the traffic, the oldest first
let shownPages = 1;

function size(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  let unit = 0;
  let count = bytes;
  while (Math.abs(count) >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count} ${UNITS[unit]}`;
}

function duration(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

const ago = (time) => `${duration((Date.now() - Date.parse(time)) / 1000)} ago`;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function progress(part, whole) {
  const made = element("progress");
  if (whole) {
    made.max = whole;
    made.value = part;
  }
  return made;
}

function list(id, pairs) {
  byId(id).replaceChildren(...pairs.flatMap(([name, value, isBad]) => [
    element("dt", name), element("dd", value, isBad ? "bad" : ""),
  ]));
}

function rows(id, made, columns, nothing) {
  if (!made.length) {
    const cell = element("td", nothing, "empty");
    cell.colSpan = columns;
    const row = element("tr");
    row.append(cell);
    made = [row];
  }
  byId(id).replaceChildren(...made);
}

function row(...cells) {
  const made = element("tr");
  made.append(...cells);
  return made;
}

function cell(content, className) {
  const made = element("td", undefined, className);
  made.append(content);
  return made;
}

function gauge(id, name, used, whole, told) {
  const line = element("p");
  line.append(element("span", name), element("span", told));
  byId(id).replaceChildren(line, ...(whole ? [progress(used, whole)] : []));
}

function showStatus(status) {
  const { disk, budget, store, health, scrub, traffic } = status;
  byId("about").textContent = `${status.version} · up ${duration(status.uptime_seconds)} · ${status.cache_dir}`;
  const used = disk.total_bytes - Math.max(0, disk.free_bytes);
  gauge("disk", "Disk", used, disk.total_bytes, `${size(disk.free_bytes)} of ${size(disk.total_bytes)} free`);
  const limit = budget.max_cache_bytes;
  gauge("budget", "Cache", budget.cache_bytes, limit, limit === null
    ? `${size(budget.cache_bytes)}, no limit` : `${size(budget.cache_bytes)} of ${size(limit)}`);
  list("kept", [
    ["Contents", store.contents], ["Blobs", store.blobs], ["Pinned", size(budget.pinned_bytes)],
    ["Reserved", size(disk.reserved_bytes)], ["Evicted", `${budget.evicted}, ${size(budget.evicted_bytes)}`],
  ]);
  list("sums", [
    ["From upstreams", size(traffic.upstream_bytes)], ["Sent to clients", size(traffic.sent_bytes)],
    ["Saved", size(saved(traffic))],
  ]);
  list("faults", [
    ["In quarantine", store.quarantined, store.quarantined > 0], ["Damaged", health.damaged, health.damaged > 0],
    ["Repaired", health.repaired], ["Not repaired", health.repairs_failed, health.repairs_failed > 0],
    ["Last scrub", scrub.finished ? `${ago(scrub.finished)}, ${scrub.faults} wrong` : "not yet", scrub.faults > 0],
  ]);
  rows("transfers", status.transfers.map((each) => {
    const left = each.size && each.bytes_per_second ? (each.size - each.position) / each.bytes_per_second : null;
    return row(
      cell(each.what, "name"), cell(progress(each.position, each.size)),
      cell(each.size ? `${size(each.position)} of ${size(each.size)}` : size(each.position), "number"),
      cell(`${size(each.bytes_per_second)}/s`, "number"), cell(left === null ? "?" : duration(left), "number"),
    );
  }), 5, "Nothing is arriving.");
}

// --- the plot: totals since the first sample ---------------------------------------------------------------------

const saved = (traffic) => Math.max(0, traffic.sent_bytes - traffic.upstream_bytes);

function draw(now) {
  samples.push(now);
  if (samples.length > MAX_SAMPLES) samples.splice(1, 2);
  const [width, height, margin] = [600, 160, 22];
  const start = samples[0].time;
  const seconds = Math.max(1, now.time - start);
  const top = Math.max(1, ...samples.map((each) => Math.max(each.upstream_bytes, saved(each))));
  const x = (each) => (width * (each.time - start)) / seconds;
  const y = (value) => height - margin - ((height - 2 * margin) * value) / top;
  const line = (name, value) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
    made.setAttribute("class", name);
    const points = samples.map((each) => `${x(each).toFixed(1)},${y(value(each)).toFixed(1)}`);
    made.setAttribute("d", `M${points.join("L")}`);
    return made;
  };
  const marks = [0, top / 2, top].flatMap((value) => {
    const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    for (const [key, at] of [["x1", 0], ["x2", width], ["y1", y(value)], ["y2", y(value)]]) rule.setAttribute(key, at);
    rule.setAttribute("class", "grid");
    text.setAttribute("x", 2);
    text.setAttribute("y", y(value) - 3);
    text.textContent = top > 1 && value ? size(Math.round(value)) : "";
    return [rule, text];
  });
  byId("plot").replaceChildren(...marks, line("upstream", (each) => each.upstream_bytes), line("saved", saved));
  byId("span").textContent = `last ${duration(seconds)}`;
}

// --- the contents --------------------------------------------------------------------------------------------------

function showContents(contents, hasMore) {
  rows("contents", contents.map((each) => {
    const part = each.size
      ? ` ${Math.floor((100 * each.bytes_present) / each.size)} %`
      : `, ${size(each.bytes_present)} here`;
    const state = each.state === "complete" ? each.state : each.state + part;
    return row(
      cell(each.name, "name"), cell(each.pinned ? `${state}, pinned` : state, each.error ? "bad" : ""),
      cell(size(each.size), "number"), cell(ago(each.last_used)),
    );
  }), 4, "The cache is empty.");
  byId("errors").replaceChildren(...contents.filter((each) => each.error).map(
    (each) => element("li", `${each.name}: ${each.error.title}: ${each.error.detail}`),
  ));
  byId("more").hidden = !hasMore;
}

// --- asking --------------------------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 404) return null; // this listener does not have the door
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

async function askStatus() {
  const status = await ask(samples.length ? "admin/status" : "admin/status?history=true");
  samples.push(...(status.traffic.history ?? []));
  showStatus(status);
  draw({ time: Date.now() / 1000, ...status.traffic });
}

async function askContents() {
  const contents = [];
  let after = "";
  for (let page = 0; page < shownPages; page += 1) {
    const answer = await ask(`content/?limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`);
    if (answer === null) {
      rows("contents", [], 4, "This listener does not tell what is cached: it has no door content.");
      return;
    }
    contents.push(...answer.contents);
    after = answer.next ?? "";
    if (!after) break;
  }
  showContents(contents, after !== "");
}

async function keep(asking, seconds) {
  const trouble = byId("trouble");
  try {
    await asking();
    if (trouble.dataset.of === asking.name) trouble.hidden = true;
  } catch (error) {
    trouble.textContent = `The daemon does not answer: ${error.message}`;
    trouble.dataset.of = asking.name;
    trouble.hidden = false;
  }
  setTimeout(keep, seconds * 1000, asking, seconds);
}

byId("more").addEventListener("click", () => {
  shownPages += 1;
  askContents();
});
keep(askStatus, STATUS_SECONDS);
keep(askContents, CONTENTS_SECONDS);
