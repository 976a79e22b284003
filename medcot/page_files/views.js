// The views: overview, a rule with its sample, records, duplicates, conflicts, benchmarks and privacy, decisions.

const VIEWS = ["overview", "records", "duplicates", "conflicts", "exposure", "decisions"];

// Rows that a hook made after the source was read.
const madeLater = () => data.core.stages.slice(1).reduce((n, stage) => n + stage.read, 0);

function overview() {
  const { core } = data, num = data.size, ended = core.stages.reduce((n, stage) => n + stage.ended, 0), made = madeLater();
  const splits = ["train", "val", "test"].map((name, i) => [name, core.records.split.filter((split, r) => split === i && data.end[r] < 0).length]);
  return [
    h("section", { class: "lead" }, h("h2", {}, t(made ? "lead_made" : "lead", { read: number(num - made), made: number(made), kept: number(num - ended), left: number(ended) })), h("p", {}, t("lead_note", { source: core.sources.filter((name) => !made || !name.startsWith("augment:")).join(t("list_comma")) }))),
    h("section", { class: "panel" }, h("h3", {}, t("funnel")), funnel(splits, num)),
    h("section", { class: "panel" }, h("h3", {}, t("reasons")), h("p", { class: "note" }, t("reasons_note")), reasons()),
    h("section", { class: "charts" }, lengthChart(core.lengths), [...new Set(core.similarities.map((row) => row.key))].map((key) => similarityChart(key, core.similarities.filter((row) => row.key === key)))),
    h("p", { class: "note" }, textsNote()),
  ];
}

function textsNote() {
  const have = data.texts ? Object.keys(data.texts).length : 0;
  return data.texts ? t("texts_note", { have: number(have), rest: number(data.size - have) }) : t("texts_opening");
}

// One bar a stage: what came in, as far as it went on, and a link to the rules that ended the rest.
function funnel(splits, num) {
  const kept = splits.reduce((n, [, count]) => n + count, 0), notes = (stage) => [stage.ended ? t("left_here", { n: number(stage.ended) }) : t("none_left"), stage.name !== "download" && stage.read ? t("made_here", { n: number(stage.read) }) : ""].filter(Boolean).join(t("list_comma"));
  const part = (from, count, kind) => svg("rect", { x: (100 * from) / Math.max(num, 1), width: Math.max(count ? 0.3 : 0, (100 * count) / Math.max(num, 1)), height: 10, class: "fill-" + kind });
  const bar = (label, count, kind, hash, note, lost) => link(hash, { class: "bar-row" }, h("span", { class: "bar-name" }, label), h("span", { class: "bar-track" }, svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, part(0, count, kind), lost && part(count, lost, "left_out"))), h("span", { class: "bar-count" }, number(count)), h("span", { class: "bar-note" }, note));
  return h("div", { class: "funnel" },
    bar(t("rows_in"), num - madeLater(), "in", "view=records", ""),
    data.core.stages.filter((stage) => stage.ended || stage.name !== "download").map((stage) => bar(t("stage_" + stage.name), stage.out, "stage", "view=overview&stage=" + stage.name, notes(stage), stage.ended)),
    h("div", { class: "splits" }, splits.map(([name, count]) => bar(t("kind_" + name), count, name, "view=records&fate=" + name, t("share_of_kept", { share: percent(count, kept) })))));
}

function precision(rule) {
  const key = data.keys[rule] || "untouched", sample = data.core.samples[rule] || [];
  const marks = sample.map((i) => markOf(key, hashOf(i))), right = marks.filter((m) => m === "right").length, judged = marks.filter(Boolean).length;
  return { key, right, judged, size: sample.length };
}

// Measured precision in words: share, interval, how many were judged.
function precisionText(rule) {
  const { right, judged, size } = precision(rule);
  if (!size) return "–";
  if (!judged) return t("not_measured", { n: size });
  const [low, high] = wilson(right, judged);
  return t("measured", { share: Math.round((100 * right) / judged), low: Math.round(100 * low), high: Math.round(100 * high), judged, size });
}

function reasons() {
  const { rules, samples } = data.core, only = route.stage;
  const rows = rules.map((rule, r) => [rule, r]).filter(([rule]) => !only || rule[0] === only);
  const row = (r, stage, action, name, why, count) => h("tr", {}, h("td", { class: "rule-name" }, link("rule=" + (data.keys[r] || "untouched"), {}, name), h("p", { class: "why" }, why)), h("td", {}, stage), h("td", {}, badge(action, t("action_" + action))), h("td", { class: "num" }, number(count), h("small", {}, percent(count, data.size))), h("td", { class: "measured" }, precisionText(r)));
  return [only && h("p", {}, t("only_stage", { stage: t("stage_" + only) }), " ", link("view=overview", {}, t("all_stages"))),
    h("table", { class: "reasons" }, h("thead", {}, h("tr", {}, ["rule", "stage", "action", "count", "precision"].map((name) => h("th", { scope: "col" }, t(name))))),
      h("tbody", {}, rows.map(([[stage, action], r]) => row(r, t("stage_" + stage), action, ruleName(r), ruleWhy(r), data.members[r].length)), !only && row(rules.length, "–", "kept", t("rule.untouched"), t("why.untouched"), data.size - new Set(data.core.events[0]).size))),
    rows.length === 0 && empty(t("no_rules"))];
}

// --- one rule and its sample ---

function ruleView(key) {
  const rule = key === "untouched" ? data.core.rules.length : data.keys.indexOf(key);
  if (rule < 0) return empty(t("no_such_rule", { rule: key }));
  const untouched = rule === data.core.rules.length, action = untouched ? "kept" : data.core.rules[rule][1], sample = data.core.samples[rule];
  const count = untouched ? data.size - new Set(data.core.events[0]).size : data.members[rule].length;
  return [h("p", { class: "back" }, link("view=overview", {}, "← " + t("view_overview"))),
    h("section", { class: "lead" }, h("h2", {}, untouched ? t("rule.untouched") : ruleName(rule), " ", badge(action, t("action_" + action))), h("p", {}, untouched ? t("why.untouched") : ruleWhy(rule)), h("p", { class: "meta" }, h("code", {}, untouched ? "–" : data.core.rules[rule][2]), " · ", t("rule_count", { n: number(count), share: percent(count, data.size) }), " · ", link("view=records&rule=" + key, {}, t("all_records_of_rule")))),
    h("p", { class: "note" }, t("sample_note", { n: sample.length, all: number(count) }), " ", h("kbd", {}, "j"), h("kbd", {}, "k"), " ", t("key_move"), " ", h("kbd", {}, "y"), " ", t("mark_right"), " ", h("kbd", {}, "n"), " ", t("mark_wrong")),
    h("section", { class: "panel sticky" }, h("h3", {}, t("precision")), h("p", { class: "precision", id: "precision", "aria-live": "polite" }, precisionText(rule))),
    h("div", { class: "cards", id: "sample" }, sample.map((i, at) => sampleCard(rule, key, i, at)))];
}

function sampleCard(rule, key, i, at) {
  const verdict = () => markOf(key, hashOf(i)), event = eventOf(i, rule);
  const buttons = ["right", "wrong"].map((value) => h("button", { type: "button", class: "choice " + value, "data-verb": value, "aria-pressed": String(verdict() === value), onclick: () => put(value) }, t("mark_" + value)));
  const after = h("p", { class: "note" });
  function put(value) {
    mark(key, hashOf(i), value);
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(verdict() === button.dataset.verb)));
    document.getElementById("precision").textContent = precisionText(rule);
    replace(after, verdict() === "wrong" && [t("wrong_next"), " ", link("record=" + data.core.records.id[i], {}, t("decide_here"))]);
  }
  return h("article", { class: "panel card", tabindex: 0, "data-record": data.core.records.id[i] }, h("header", {}, h("p", {}, h("strong", {}, at + 1), " ", recordLink(i), " ", data.end[i] !== rule && fateBadge(i), " ", decisionBadge(i)), h("div", { class: "choices" }, buttons)),
    event && h("p", { class: "detail" }, plain(detailText(event)), event.similarity !== null && " · " + similarityText(event)), after, evidence(i, rule));
}

// --- records: a virtual list beside the chosen one ---

const ROW = 68; // pixels of a list row, as in the style

function recordsView() {
  const found = search(route), chosen = route.record !== undefined ? data.byId.get(route.record) : undefined;
  const box = h("div", { class: "list", tabindex: 0, id: "list", role: "listbox", "aria-label": t("view_records") }, h("div", { class: "list-inner" }));
  data.found = found;
  data.at = Math.max(0, chosen === undefined ? 0 : found.indexOf(chosen));
  const count = h("p", { class: "meta", id: "found" }, t("found", { n: number(found.length) }));
  const side = h("div", { class: "side" }, filters(), count, found.length ? box : empty(t("nothing_found")));
  const detail = h("div", { class: "main-record", id: "detail" }, route.record === undefined ? empty(t("choose_record")) : chosen === undefined ? empty(t("no_such_record", { id: route.record })) : [h("p", { class: "back" }, link(listHash(), {}, "← " + t("back_to_list"))), recordView(chosen)]);
  box.addEventListener("scroll", () => drawRows(box));
  box.firstChild.style.height = found.length * ROW + "px"; // before it is scrolled
  requestAnimationFrame(() => { box.scrollTop = Math.max(0, data.at * ROW - box.clientHeight / 2); drawRows(box); });
  return h("div", { class: "split" + (route.record === undefined ? "" : " open") }, side, detail);
}

function drawRows(box) {
  const inner = box.firstChild, first = Math.max(0, Math.floor(box.scrollTop / ROW) - 5), last = Math.min(data.found.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 5);
  replace(inner, data.found.slice(first, last).map((i, at) => {
    const row = link(listHash(i), { class: "list-row" + (route.record === data.core.records.id[i] ? " chosen" : "") + (data.at === first + at ? " at" : ""), role: "option", "aria-selected": String(route.record === data.core.records.id[i]), tabindex: -1 }, h("span", { class: "list-top" }, h("span", { class: "id" }, data.core.records.id[i]), fateBadge(i), decisionBadge(i)), h("span", { class: "list-head" }, headOf(i) || "–"));
    row.style.top = (first + at) * ROW + "px";
    return row;
  }));
}

// The address of the list as it is filtered, with a record open or none.
function listHash(i) {
  const parts = new URLSearchParams();
  for (const name of ["rule", "fate", "decided", "q"]) if (route[name]) parts.set(name, route[name]);
  if (i !== undefined) return new URLSearchParams([["record", data.core.records.id[i]], ...parts]).toString();
  return new URLSearchParams([["view", "records"], ...parts]).toString();
}

function filters() {
  const go = (name, value) => { const next = { ...route, [name]: value, record: undefined }; location.hash = hashFor(next); };
  const choice = (name, values) => h("select", { "aria-label": t("filter_" + name), id: "filter-" + name, onchange: (event) => go(name, event.target.value) }, values.map(([value, label]) => h("option", { value, selected: (route[name] || "") === value }, label)));
  const input = h("input", { type: "search", id: "search", value: route.q || "", placeholder: t("search_hint"), "aria-label": t("search_hint"), oninput: () => { clearTimeout(filters.timer); filters.timer = setTimeout(() => go("q", input.value), 250); } });
  return h("div", { class: "filters" }, input,
    choice("rule", [["", t("every_rule")], ...data.keys.map((key, r) => [key, `${ruleName(r)} (${number(data.members[r].length)})`]), ["untouched", t("rule.untouched")]]),
    choice("fate", [["", t("every_fate")], ...["train", "val", "test", "removed", "refused"].map((name) => [name, t("kind_" + name)])]),
    choice("decided", [["", t("every_decision")], ...["none", "draft", "keep", "drop", "edit"].map((name) => [name, t("filter_" + name)])]));
}

function hashFor(next) {
  const parts = new URLSearchParams([["view", "records"]]);
  for (const name of ["rule", "fate", "decided", "q"]) if (next[name]) parts.set(name, next[name]);
  return parts.toString();
}

// --- long pages of cards: drawn a handful at a time, more when the end comes into sight ---

function growing(items, draw, size) {
  const box = h("div", { class: "cards", id: "sample" }), end = h("button", { type: "button", class: "quiet more", onclick: () => more() }, t("more"));
  let shown = 0;
  function more() {
    append(box, items.slice(shown, shown + size).map((item, at) => draw(item, shown + at)));
    shown = Math.min(items.length, shown + size);
    end.hidden = shown >= items.length;
  }
  more();
  const watch = new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && more(), { rootMargin: "600px" });
  watch.observe(end);
  return [box, end];
}

const COPIES = 5; // removed rows of a cluster that are compared at once

function duplicatesView() {
  const list = data.clusters;
  return [h("section", { class: "lead" }, h("h2", {}, t("view_duplicates")), h("p", {}, t("duplicates_note", { n: number(list.length), rows: number(list.reduce((n, one) => n + one.removed.length, 0)) }))),
    list.length ? growing(list, (one, at) => h("article", { class: "panel card", tabindex: 0, "data-record": data.core.records.id[one.witness] }, h("header", {}, h("h3", {}, t("cluster", { n: at + 1, rows: one.removed.length + 1 }))), members(one)), 10) : empty(t("no_duplicates"))];
}

function members({ witness, removed }) {
  const draw = (i) => {
    const event = eventsOf(i).find((one) => one.related === witness && ends(one.rule));
    return h("div", { class: "member" }, h("p", { class: "detail" }, badge("removed", ruleName(event.rule)), " ", detailText(event), " · ", similarityText(event)), compare(witness, i, [t("kept_row"), t("removed_row")]));
  };
  const rest = removed.slice(COPIES);
  return [removed.slice(0, COPIES).map(draw), rest.length > 0 && h("details", { ontoggle: (event) => { if (event.target.open && !event.target.dataset.drawn) { event.target.dataset.drawn = 1; append(event.target, rest.slice(0, 100).map(draw)); } } }, h("summary", {}, t("further_rows", { n: rest.length })))];
}

// --- conflicts ---

function conflictPairs() {
  const pairs = new Map();
  for (const [a, b, key, kinds, similarity] of data.core.conflicts) {
    const name = a + " " + b;
    if (!pairs.has(name)) pairs.set(name, { a, b, found: [] });
    pairs.get(name).found.push({ key, kinds, similarity });
  }
  return [...pairs.values()];
}

const kindsOf = (pair) => [...new Set(pair.found.flatMap((one) => one.kinds.split(", ")))].join(", ");
const conflictReason = (pair, verb, side) => t("conflict_reason_" + verb, { kinds: kindWords(kindsOf(pair)), other: data.core.records.id[side === "a" ? pair.b : pair.a] });
const settled = (pair) => Boolean(decisionOf(hashOf(pair.a)) || decisionOf(hashOf(pair.b)));

const openText = (pairs) => t("conflicts_open", { open: number(pairs.filter((pair) => !settled(pair)).length), all: number(pairs.length) });

function conflictsView() {
  const pairs = conflictPairs(), open = pairs.filter((pair) => !settled(pair)), only = route.open === "1";
  return [h("section", { class: "lead" }, h("h2", {}, t("view_conflicts")), h("p", {}, t("conflicts_note")), pairs.length > 0 && h("p", { class: "meta" }, h("span", { id: "conflicts-open" }, openText(pairs)), " · ", link(only ? "view=conflicts" : "view=conflicts&open=1", {}, t(only ? "show_all" : "show_open")))),
    pairs.length ? growing(only ? open : pairs, conflictCard, 10) : empty(t("no_conflicts"))];
}

function conflictCard(pair, at) {
  const card = h("article", { class: "panel card conflict-card", tabindex: 0, "data-record": data.core.records.id[pair.a] });
  const verb = () => { const [a, b] = [pair.a, pair.b].map((i) => (decisionOf(hashOf(i)) || {}).decision); return a === "drop" ? "a" : b === "drop" ? "b" : a === "keep" && b === "keep" ? "both" : ""; };
  function choose(value) {
    const reviewer = document.getElementById("conflict-reviewer-" + at).value.trim();
    if (!reviewer) { say(t("need_reviewer")); document.getElementById("conflict-reviewer-" + at).focus(); return; }
    for (const [i, side] of [[pair.a, "a"], [pair.b, "b"]]) {
      if (value === "both") decide(hashOf(i), "keep", conflictReason(pair, "both", side), reviewer);
      else if (value === side) decide(hashOf(i), "drop", conflictReason(pair, side, side), reviewer);
      else if (Object.values(STRINGS.conflict_word).some((word) => (store.drafts.get(hashOf(i)) || {}).reason?.startsWith(word))) store.drafts.delete(hashOf(i));
    }
    saveDrafts();
    say(t("conflict_saved_" + value));
    draw();
    drawHeader();
    replace(document.getElementById("conflicts-open"), openText(conflictPairs()));
  }
  function draw() {
    const buttons = ["both", "a", "b"].map((value) => h("button", { type: "button", class: "choice " + (value === "both" ? "keep" : "drop"), "data-verb": value, "aria-pressed": String(verb() === value), onclick: () => choose(value) }, t("conflict_" + value)));
    replace(card, h("header", {}, h("h3", {}, at + 1 + ". ", capital(kindWords(kindsOf(pair)))), h("p", { class: "detail" }, t("similarity") + t("colon"), pair.found.map((one) => `${t("key_" + one.key)} ${one.similarity.toFixed(3)}`).join(" · "))),
      compare(pair.a, pair.b, ["A", "B"]),
      h("div", { class: "row conflict-actions" }, h("div", { class: "choices", role: "group", "aria-label": t("your_decision") }, buttons), h("label", {}, t("reviewer"), " ", h("input", { type: "text", id: "conflict-reviewer-" + at, value: store.reviewer, placeholder: t("reviewer_hint") }))));
  }
  draw();
  return card;
}

// --- benchmarks and personal data ---

function exposureView() {
  const { hits, rules } = data.core, kinds = rules.map((rule, r) => [rule[2], r]).filter(([name]) => name.startsWith("pii_"));
  const masked = data.texts ? Object.entries(data.texts).filter(([, entry]) => entry.masked).map(([i]) => Number(i)) : [];
  return [h("section", { class: "lead" }, h("h2", {}, t("view_exposure")), h("p", {}, t("exposure_note"))),
    h("section", { class: "panel" }, h("h3", {}, t("benchmark_hits")), h("p", { class: "note" }, rich(t("hits_note"))), hits.length ? hitTable(hits.slice(0, 500)) : empty(t("no_hits")), hits.length > 500 && h("p", { class: "note" }, t("first_of", { n: 500, all: number(hits.length) }))),
    h("section", { class: "panel" }, h("h3", {}, t("personal_data")), h("p", { class: "note" }, t("personal_note")),
      kinds.length ? h("ul", { class: "plain" }, kinds.map(([, r]) => h("li", {}, link("rule=" + data.keys[r], {}, ruleName(r)), " ", badge(rules[r][1], t("action_" + rules[r][1])), " ", number(data.members[r].length)))) : empty(t("no_personal")),
      masked.length > 0 && [h("h4", {}, t("masked_here", { n: number(masked.length) })), h("ul", { class: "plain" }, masked.slice(0, 200).map((i) => h("li", {}, recordLink(i), " ", h("span", { class: "detail" }, plain(headOf(i))))))])];
}

// --- decisions ---

function decisionsView() {
  const rows = allDecisions(), drafts = numDrafts();
  const picker = h("input", { type: "file", accept: ".csv,text/csv", id: "import", class: "visually-hidden", onchange: async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try { say(t("imported", { n: importCsv(await file.text()) })); } catch (error) { say(error.message); }
    refresh();
  } });
  return [h("section", { class: "lead" }, h("h2", {}, t("view_decisions")), h("p", {}, t("decisions_note")), !storageWorks && h("p", { class: "warning" }, t("no_storage"))),
    h("section", { class: "panel" }, h("div", { class: "row actions" }, h("button", { type: "button", class: "primary", id: "export", onclick: exportDecisions }, t("export_decisions", { n: rows.length })), picker, h("label", { for: "import", class: "button", tabindex: 0 }, t("import_decisions")), h("button", { type: "button", class: "quiet", disabled: !store.marks.size, onclick: () => download("marks.csv", marksCsv()) }, t("export_marks", { n: store.marks.size })), h("button", { type: "button", class: "quiet", disabled: !drafts, onclick: clearDrafts }, t("clear_drafts", { n: drafts }))),
      h("p", { class: "note" }, rich(t("export_note")))),
    h("section", { class: "panel" }, rows.length ? decisionTable(rows) : empty(t("no_decisions")))];
}

function decisionTable(rows) {
  return h("div", { class: "scroll" }, h("table", { class: "stacked decisions" }, h("thead", {}, h("tr", {}, ["hit_record", "decision", "reason", "reviewer", "date", "state"].map((name) => h("th", { scope: "col" }, t(name))))), h("tbody", {}, rows.slice(0, 1000).map((row) => {
    const known = data.byHash.get(row.content_hash);
    return h("tr", {}, h("td", { "data-label": t("hit_record") }, known ? recordLink(known[0]) : h("code", {}, row.content_hash)), h("td", { "data-label": t("decision") }, badge("decided " + row.decision, t("decided_" + row.decision))), h("td", { "data-label": t("reason") }, plain(row.reason || "")), h("td", { "data-label": t("reviewer") }, row.reviewer), h("td", { "data-label": t("date") }, row.date), h("td", { "data-label": t("state") }, !known ? badge("flagged", t("unknown_hash")) : row.draft ? t("state_draft") : t("state_stored")));
  }))));
}

function exportDecisions() {
  const hidden = allDecisions().filter((row) => !row.draft && row.masked);
  if (hidden.length) return openDialog(t("export_blocked_title"), h("p", {}, t("export_blocked", { n: hidden.length, hashes: hidden.slice(0, 5).map((row) => row.content_hash).join(" ") })));
  download("decisions.csv", decisionsCsv());
  say(t("exported"));
}

function clearDrafts() {
  openDialog(t("clear_title"), h("p", {}, t("clear_question", { n: numDrafts() })), h("button", { type: "button", class: "primary", onclick: () => { store.drafts.clear(); saveDrafts(); document.getElementById("dialog").close(); refresh(); } }, t("clear_yes")));
}
