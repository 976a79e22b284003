// Decisions and marks: kept in this browser until they are exported; the repository's file is the base that they change.

const COLUMNS = ["content_hash", "decision", "reason", "reviewer", "date", "question", "reasoning", "answer"];
const FIELDS = ["question", "reasoning", "answer"];
const RISKY = /^[=+\-@'#\t\r]/; // a spreadsheet reads such a cell as a formula

const store = { base: new Map(), drafts: new Map(), marks: new Map(), reviewer: "", key: "" };

function openStore(core) {
  store.key = "medcot." + core.sources.join("|"); // a new run over the same source finds its drafts again
  for (const row of core.decisions) store.base.set(row.content_hash, row);
  store.drafts = new Map(Object.entries(load(store.key + ".decisions") || {}));
  store.marks = new Map(Object.entries(load(store.key + ".marks") || {}));
  store.reviewer = load("medcot.reviewer") || "";
  dropSettled();
}

// A draft that the repository's file now says too is no draft any more.
function dropSettled() {
  for (const [hash, draft] of store.drafts) {
    const row = store.base.get(hash);
    if (draft.decision === "none" ? !row : row && !row.masked && ["decision", "reason", ...FIELDS].every((name) => (row[name] || "").trim() === (draft[name] || "").trim())) store.drafts.delete(hash);
  }
  saveDrafts();
}

function saveDrafts() {
  save(store.key + ".decisions", Object.fromEntries(store.drafts));
}

// The decision in force for a content hash, or null; `draft` where it has not been exported from here into the repository yet.
function decisionOf(hash) {
  const draft = store.drafts.get(hash);
  if (draft) return draft.decision === "none" ? null : { ...draft, content_hash: hash, draft: true };
  return store.base.get(hash) || null;
}

function today() {
  const now = new Date();
  return [now.getFullYear(), now.getMonth() + 1, now.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
}

function decide(hash, decision, reason, reviewer, texts) {
  store.drafts.set(hash, { decision, reason, reviewer, date: today(), ...(texts || {}) });
  store.reviewer = reviewer;
  save("medcot.reviewer", reviewer);
  dropSettled();
}

function withdraw(hash) {
  if (store.base.has(hash)) store.drafts.set(hash, { decision: "none" });
  else store.drafts.delete(hash);
  saveDrafts();
}

function allDecisions() {
  const hashes = new Set([...store.base.keys(), ...store.drafts.keys()]);
  return [...hashes].sort().map(decisionOf).filter(Boolean);
}

const numDrafts = () => store.drafts.size;

function mark(rule, hash, verdict) {
  const key = rule + " " + hash;
  if (store.marks.get(key) === verdict) store.marks.delete(key);
  else store.marks.set(key, verdict);
  save(store.key + ".marks", Object.fromEntries(store.marks));
}

const markOf = (rule, hash) => store.marks.get(rule + " " + hash) || "";

// --- CSV as RFC 4180 has it, with \n between rows ---

function cell(text) {
  const value = (text || "").replace(/\r\n?/g, "\n"), safe = RISKY.test(value) ? " " + value : value;
  return /[",\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
}

const csvText = (rows) => rows.map((row) => row.map(cell).join(",") + "\n").join("");

function decisionsCsv() {
  return csvText([COLUMNS, ...allDecisions().map((row) => COLUMNS.map((name) => (FIELDS.includes(name) && row.decision !== "edit" ? "" : row[name])))]);
}

function marksCsv() {
  const rows = [...store.marks].sort(([a], [b]) => (a < b ? -1 : 1));
  return csvText([["rule", "content_hash", "mark", "reviewer"], ...rows.map(([key, verdict]) => [...key.split(" "), verdict, store.reviewer])]);
}

function parseCsv(text) {
  const rows = [];
  let row = [], value = "", quoted = false;
  const source = text.replace(/^\ufeff/, "");
  for (let i = 0; i < source.length; i++) {
    const c = source[i];
    if (quoted) {
      if (c !== '"') value += c;
      else if (source[i + 1] === '"') { value += '"'; i++; } else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ",") { row.push(value); value = ""; } else if (c === "\n") { row.push(value.replace(/\r$/, "")); rows.push(row); row = []; value = ""; } else value += c;
  }
  if (value || row.length) rows.push([...row, value]);
  return rows.filter((cells) => cells.some((text) => text.trim()));
}

// Take a decisions.csv as the base; throws an Error that names the line.
function importCsv(text) {
  const [header, ...rows] = parseCsv(text);
  if (!header || COLUMNS.some((name) => !header.map((title) => title.trim()).includes(name))) throw new Error(t("import_header", { columns: COLUMNS.join(", ") }));
  const base = new Map();
  rows.forEach((cells, i) => {
    const row = Object.fromEntries(header.map((name, place) => [name.trim(), cells[place] || ""]));
    for (const name of COLUMNS.slice(0, 5)) row[name] = row[name].trim();
    if (!/^[0-9a-f]{16}$/.test(row.content_hash)) throw new Error(t("import_hash", { line: i + 2 }));
    if (!["keep", "drop", "edit"].includes(row.decision)) throw new Error(t("import_decision", { line: i + 2 }));
    base.set(row.content_hash, { ...row, known: data.byHash.has(row.content_hash) });
  });
  store.base = base;
  dropSettled();
  return base.size;
}

function download(name, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
