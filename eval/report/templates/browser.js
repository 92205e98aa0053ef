"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const field = (id) => document.getElementById(id);
const EACH = 24, ALL = "all", GAINS = ["corrected", "put right by tuning", "put right by fusion", "right"];
let page = 0, matching = [], shown = ALL, pair = null;

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}
function image(uri, name) {
  if (!uri) return element("span", "no image", "none");
  const node = element("img");
  node.src = uri; node.alt = name; node.loading = "lazy";
  return node;
}
function line(text, className) {
  const node = element("div", text, className);
  return node;
}
// A line has the rank in retriever order; without a true class, as of labels, the retriever's score in its place.
function rankingLine(c, [name, rank, retrieved, p]) {
  const item = element("li"), text = element("span"), isLabel = c.truth === undefined;
  text.append(element("span", data.names[name], name === c.truth || (isLabel && rank === 1) ? "true" : ""));
  if (!isLabel) text.append(element("span", ` (${rank > 5 ? `ranked ${rank}, ` : ""}retrieved ${retrieved})`, "quiet"));
  if (p !== null) {
    const bar = element("span", undefined, "bar");
    bar.style.width = (100 * p) + "%";
    text.append(bar);
  }
  if (!isLabel) item.append(image(data.class_pictures[name], data.names[name]));
  const figure = p === null ? (isLabel ? retrieved.toFixed(3) : "") : (100 * p).toFixed(1) + " %";
  item.append(text, element("span", figure));
  return item;
}
function card(c) {
  const item = element("li"), head = element("div", undefined, "head"), description = element("div");
  const isLabel = c.truth === undefined, tuned = c.ranking[0][0];
  if (!isLabel) description.append(element("strong", data.names[c.truth]));
  for (const kind of c.kinds.map((index) => data.kinds[index][0])) {
    description.append(line(kind, "status " + (isLabel ? "" : GAINS.includes(kind) ? "gain" : "error")));
  }
  const setting = isLabel ? "" : data.settings[c.setting][1] + ", ";
  description.append(line(setting + data.keys[c.picture], "quiet small"));
  for (const [label, name] of isLabel ? [] : [["retrieved", c.retrieved], ["untuned", c.untuned], ["fused", c.fused]]) {
    if (name !== null && name !== tuned) description.append(line(`${label}: ${data.names[name]}`, "quiet small"));
  }
  head.append(image(data.pictures[c.picture], data.names[isLabel ? tuned : c.truth]), description);
  const list = element("ol", undefined, isLabel ? "ranking labels" : "ranking");
  list.append(...c.ranking.map((entry) => rankingLine(c, entry)));
  if (isLabel) head.classList.add("large");
  item.append(head, list);
  const rest = c.candidates - c.ranking.length;
  if (rest > 0) item.append(line(`${rest} more candidates`, "quiet small"));
  if (c.reply) {
    const details = element("details");
    details.append(element("summary", "reply (" + c.outcome + ")"), element("pre", c.reply));
    item.append(details);
  }
  return item;
}

function matchesTools(c) {
  const setting = field("setting").value, query = field("query").value.trim().toLowerCase();
  if (setting !== "" && data.settings[c.setting][0] !== setting) return false;
  if (pair && (data.names[c.truth] !== pair[0] || data.names[c.ranking[0][0]] !== pair[1])) return false;
  const shownNames = c.truth === undefined ? c.ranking.map(([name]) => name) : [c.truth];
  return !query || [...shownNames.map((name) => data.names[name]), data.keys[c.picture]].some((text) => text.toLowerCase().includes(query));
}
function isOfKind(c, kind) { return kind === ALL || c.kinds.some((index) => data.kinds[index][0] === kind); }
function show() {
  const start = page * EACH, end = Math.min(start + EACH, matching.length);
  field("cases").replaceChildren(...matching.slice(start, end).map(card));
  field("count").textContent = matching.length ? `${start + 1} to ${end} of ${matching.length}` : "none";
  field("previous").disabled = page === 0;
  field("next").disabled = end >= matching.length;
}
function filter() {
  const found = data.cases.filter(matchesTools);
  for (const chip of field("kinds").children) {
    chip.setAttribute("aria-pressed", chip.dataset.kind === shown);
    chip.lastChild.textContent = " " + found.filter((c) => isOfKind(c, chip.dataset.kind)).length;
  }
  const explanation = data.kinds.find(([kind]) => kind === shown);
  field("explanation").textContent = explanation ? explanation[1] : "";
  field("pair").hidden = !pair;
  field("pair").textContent = pair ? `only ${pair[0]} taken for ${pair[1]} ×` : "";
  page = 0;
  matching = found.filter((c) => isOfKind(c, shown));
  show();
}
function turn(by) { page += by; show(); field("predictions").scrollIntoView(); }
function choose(kind) {
  shown = kind;
  history.replaceState(null, "", "#" + new URLSearchParams({ show: kind, setting: field("setting").value }));
  filter();
}
// Links such as #show=broken&setting=few_shot-4 open a kind of prediction.
function followLink() {
  const wanted = new URLSearchParams(location.hash.slice(1)), kind = wanted.get("show");
  if (kind !== ALL && !data.kinds.some(([name]) => name === kind)) return;
  shown = kind; pair = null;
  field("setting").value = wanted.get("setting") ?? "";
  filter();
  field("predictions").scrollIntoView();
}

for (const kind of [ALL, ...data.kinds.map(([name]) => name)]) {
  if (!data.cases.some((c) => isOfKind(c, kind))) continue;
  const chip = element("button", kind);
  chip.type = "button"; chip.dataset.kind = kind;
  chip.append(element("span"));
  chip.addEventListener("click", () => choose(kind));
  field("kinds").append(chip);
}
for (const button of document.querySelectorAll("#confused button")) {
  button.addEventListener("click", () => {
    pair = [button.dataset.truth, button.dataset.chosen];
    shown = ALL; field("setting").value = ""; field("query").value = "";
    filter();
    field("predictions").scrollIntoView();
  });
}
field("pair").addEventListener("click", () => { pair = null; filter(); });
field("setting").addEventListener("change", filter);
field("query").addEventListener("input", filter);
field("previous").addEventListener("click", () => turn(-1));
field("next").addEventListener("click", () => turn(1));
window.addEventListener("hashchange", followLink);
filter();
followLink();
