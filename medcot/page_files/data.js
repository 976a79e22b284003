// The page's data, and what is looked up in it.

const data = { core: null, texts: null, byId: new Map(), byHash: new Map() };

// A block of JSON as the page holds it: plain, or compressed and in base64 when large.
async function block(name) {
  const text = document.getElementById(name).textContent;
  if (text.startsWith("{")) return JSON.parse(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function openCore() {
  const core = (data.core = await block("core")), { records, events, rules } = core;
  data.size = records.id.length;
  records.id.forEach((id, i) => {
    data.byId.set(id, i);
    const same = data.byHash.get(hashOf(i));
    if (same) same.push(i);
    else data.byHash.set(hashOf(i), [i]);
  });
  // Events stand in the order of the records: where each record's begin.
  data.first = new Uint32Array(data.size + 1);
  for (const record of events[0]) data.first[record + 1]++;
  for (let i = 0; i < data.size; i++) data.first[i + 1] += data.first[i];
  data.end = new Int32Array(data.size).fill(-1);
  data.members = rules.map(() => []);
  events[0].forEach((record, i) => {
    const rule = events[1][i], list = data.members[rule];
    if (list[list.length - 1] !== record) list.push(record);
    if (ends(rule)) data.end[record] = rule;
  });
  data.keys = rules.map(([, action, name]) => (rules.filter((rule) => rule[2] === name).length > 1 ? `${name}:${action}` : name));
  data.clusters = clusters();
}

async function openTexts() {
  data.texts = await block("texts");
}

// A row that a hook made was not read: it has no content hash of its own, and nobody decides about it but through its parent.
const isMade = (i) => data.core.records.row[i] === null;
const parentOf = (i) => data.byId.get(data.core.records.id[i].split("-aug-")[0]);
const hashOf = (i) => data.core.records.hash[i] || (isMade(i) ? data.core.records.id[i] : data.core.records.id[i].split("-")[0]);
const ends = (rule) => ["removed", "refused"].includes(data.core.rules[rule][1]);
const headOf = (i) => data.core.records.head[i] + ([...data.core.records.head[i]].length >= data.core.head ? "…" : ""); // cut where it is as long as a head may be
const textsOf = (i) => (data.texts && data.texts[i]) || null;

// The texts after a step: [from, to, text] of each changed field, counted in characters, not in UTF-16 units.
function step(before, fields) {
  return before.map((text, f) => {
    if (!(f in fields)) return text;
    const [from, to, insert] = fields[f], all = [...text];
    return all.slice(0, from).join("") + insert + all.slice(to).join("");
  });
}

// A record's texts as they went on, or null of a row that could not be read.
function nowOf(entry) {
  if (!entry.raw) return null;
  if (!entry.now) entry.now = (entry.steps || []).reduce((texts, [, fields]) => step(texts, fields), entry.raw);
  return entry.now;
}
const ruleName = (rule) => named("rule", data.core.rules[rule][2]);
const ruleWhy = (rule) => named("why", data.core.rules[rule][2]);

// A rule's name or sentence; of a rule that the page does not know, its family's.
function named(kind, rule) {
  const family = ["quality_", "pii_"].find((prefix) => rule.startsWith(prefix));
  return STRINGS[`${kind}.${rule}`] ? t(`${kind}.${rule}`) : family ? t(`${kind}.${family}`, { name: rule.slice(family.length) }) : kind === "rule" ? rule : "";
}

// One record's events: {rule, detail, related (a record, or null), similarity}.
function eventsOf(i) {
  const [, rule, detail, related, similarity] = data.core.events, found = [];
  for (let e = data.first[i]; e < data.first[i + 1]; e++) found.push({ rule: rule[e], detail: detail[e], related: related[e], similarity: similarity[e] });
  return found;
}

const eventOf = (i, rule) => eventsOf(i).find((event) => event.rule === rule);

// A kept row with the rows that it stands for, the largest cluster first.
function clusters() {
  const [record, rule, , related] = data.core.events, found = new Map();
  record.forEach((one, e) => {
    if (related[e] === null || data.core.rules[rule[e]][0] !== "dedup" || !ends(rule[e])) return;
    if (!found.has(related[e])) found.set(related[e], []);
    found.get(related[e]).push(one);
  });
  return [...found].map(([witness, removed]) => ({ witness, removed })).sort((a, b) => b.removed.length - a.removed.length || a.witness - b.witness);
}

function fateOf(i) {
  if (data.end[i] >= 0) return data.core.rules[data.end[i]][1];
  return ["train", "val", "test"][data.core.records.split[i]] || "kept";
}

// All that a search looks through: id, hash, rules, first characters, and the texts that are in the page.
function haystack(i) {
  const { id, head } = data.core.records, entry = textsOf(i);
  if (!data.hay || data.hayHasTexts !== Boolean(data.texts)) { data.hay = new Array(data.size); data.hayHasTexts = Boolean(data.texts); }
  if (data.hay[i] === undefined) {
    const texts = entry ? [entry.unreadable, ...(entry.raw || []), ...(entry.steps || entry.now ? nowOf(entry) : [])] : [];
    data.hay[i] = [id[i], hashOf(i), ...eventsOf(i).map((event) => data.core.rules[event.rule][2]), head[i], ...texts].join("\n").toLowerCase();
  }
  return data.hay[i];
}

function search({ q, rule, fate, decided }) {
  const needle = (q || "").trim().toLowerCase(), number = rule ? data.keys.indexOf(rule) : -1;
  const from = number >= 0 ? data.members[number] : rule === "untouched" ? [...Array(data.size).keys()].filter((i) => data.first[i] === data.first[i + 1]) : rule ? [] : [...Array(data.size).keys()];
  return from.filter((i) => (!fate || inFate(i, fate)) && (!decided || matches(i, decided)) && (!needle || haystack(i).includes(needle)));
}

const inFate = (i, fate) => (fate === "left_out" ? data.end[i] >= 0 : fate === "kept" ? data.end[i] < 0 : fateOf(i) === fate);

function matches(i, decided) {
  const decision = decisionOf(hashOf(i));
  return decided === "any" ? Boolean(decision) : decided === "draft" ? Boolean(decision && decision.draft) : decision ? decision.decision === decided : decided === "none";
}
