// What is shown of a record: its texts, what changed, what it was compared with, its story, and the panel that decides about it.

const link = (hash, attributes, ...children) => h("a", { href: "#" + hash, ...attributes }, children);
const recordLink = (i) => link("record=" + data.core.records.id[i], { class: "id" }, data.core.records.id[i]);
const badge = (kind, text) => h("span", { class: "badge " + kind }, text);
const fateBadge = (i) => badge(fateClass(i), data.end[i] >= 0 ? ruleName(data.end[i]) : t("kind_" + fateOf(i)));
const fateClass = (i) => (data.end[i] >= 0 ? fateOf(i) : "kept");

function decisionBadge(i) {
  const decision = decisionOf(hashOf(i));
  return decision && badge("decided " + decision.decision, t("decided_" + decision.decision) + (decision.draft ? " *" : ""));
}

// A field under its name; an empty one says so.
function fieldBlock(name, ...content) {
  return h("section", { class: "field" }, h("h4", {}, t("field_" + name)), h("div", { class: "text" }, content));
}

function noTexts(made) {
  return h("p", { class: "empty" }, rich(t(!data.texts ? "texts_opening" : made ? "no_texts_made" : "no_texts")));
}

function fullTexts(i) {
  const entry = textsOf(i);
  if (!entry) return [noTexts(isMade(i)), data.core.records.head[i] && fieldBlock("question", headOf(i))];
  if (entry.unreadable !== undefined) return fieldBlock("unreadable", plain(entry.unreadable, true));
  const now = nowOf(entry);
  return FIELDS.map((name, f) => fieldBlock(name, (entry.missing || []).includes(f) && !now[f] ? h("em", {}, t("field_missing")) : now[f] ? plain(now[f]) : h("em", {}, t("field_empty"))));
}

// Before and after, field by field; of one rule where its own step is in the page, else of all rules together.
function changes(i, rule) {
  const entry = textsOf(i);
  if (!entry) return noTexts();
  const [before, after, own] = around(entry, rule);
  const changed = FIELDS.map((name, f) => before[f] !== after[f] && fieldBlock(name, inlineDiff(before[f], after[f]))).filter(Boolean);
  if (!changed.length) return [h("p", { class: "note" }, t("change_masked")), FIELDS.map((name, f) => PLACEHOLDER.test(after[f]) && fieldBlock(name, plain(after[f])))];
  return [changed, !own && rule !== undefined && h("p", { class: "note" }, t("all_rules_together"))];
}

function around(entry, rule) {
  const name = rule === undefined ? null : data.core.rules[rule][2];
  let before = entry.raw || ["", "", ""];
  for (const [rule, fields] of entry.steps || []) {
    const after = step(before, fields);
    if (rule === name) return [before, after, true];
    before = after;
  }
  return [entry.raw || ["", "", ""], nowOf(entry) || ["", "", ""], false];
}

// Two records side by side, field by field, marked where they differ; equal fields are folded away.
function compare(one, two, labels) {
  const a = textsOf(one), b = textsOf(two);
  const heads = h("div", { class: "pair heads" }, [one, two].map((i, side) => h("p", {}, h("strong", {}, labels[side]), " ", recordLink(i), " ", fateBadge(i), " ", decisionBadge(i))));
  if (!a || !b || !nowOf(a) || !nowOf(b)) return h("div", { class: "compare" }, heads, noTexts());
  const blocks = FIELDS.map((name, f) => {
    const left = nowOf(a)[f], right = nowOf(b)[f];
    if (left === right) return h("details", { class: "field" }, h("summary", {}, t("field_" + name) + t("colon") + t("same")), h("div", { class: "text" }, plain(left)));
    const runs = diff(left, right);
    return h("section", { class: "field" }, h("h4", {}, t("field_" + name)), h("div", { class: "pair" }, h("div", { class: "text", "data-side": labels[0] }, left ? sideDiff(runs, "-") : h("em", {}, t("field_empty"))), h("div", { class: "text", "data-side": labels[1] }, right ? sideDiff(runs, "+") : h("em", {}, t("field_empty")))));
  });
  return h("div", { class: "compare" }, heads, blocks);
}

const similarityText = (event) => (event.similarity === null ? null : `${t("similarity")} ${event.similarity.toFixed(3)}`);

// A detail such as "question: number" in the reader's words.
function detailText(event) {
  const name = data.core.rules[event.rule][2];
  if (!event.detail) return "";
  if (name.startsWith("pii_")) return event.detail.replace(/\b(question|reasoning|answer) × (\d+)/g, (_, field, n) => `${fieldWord(field)} × ${n}`).replace(/, /g, t("list_comma")).replace(/\bpii_\w+(?=: )/g, (rule) => named("rule", rule));
  if (data.core.rules[event.rule][1] === "changed") return t("changed_fields", { fields: event.detail.split(", ").map((field) => field.replace(/^\w+/, fieldWord)).join(t("list_comma")) });
  if (name === "conflict") return event.detail.replace(/^(\w+): (.*)$/, (_, key, kinds) => t("conflict_detail", { key: t("key_" + key), kinds: kindWords(kinds) }));
  if (["exact_copy", "exact_question", "near_duplicate"].includes(name)) return event.detail.replace(/^(\w+)(?:; the answers differ: (.*))?$/, (_, key, kinds) => t("found_by", { key: t("key_" + key) }) + (kinds ? t("answers_differ", { kinds: kindWords(kinds) }) : ""));
  return event.detail.replace(/\b(question|reasoning|answer)\b(?=[:,]|$)/g, fieldWord).replace(/^(\d+) tokens, cutoff_len (\d+)$/, (_, n, limit) => t("detail_length", { n: number(Number(n)), limit: number(Number(limit)) })).replace(/: no text$/, `: ${t("empty_text")}`).replace(/: no value$/, `: ${t("no_value")}`);
}

const fieldWord = (field) => (FIELDS.includes(field) ? t("field_" + field) : field);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// A sentence in which `code` stands in backticks.
const rich = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
const kindWords = (kinds) => kinds.split(", ").map((kind) => t("fact_" + kind)).join(t("list_comma"));

// What there is to see for one event.
function evidence(i, rule) {
  const event = eventOf(i, rule);
  if (!event) return fullTexts(i);
  const action = data.core.rules[rule][1];
  if (event.related !== null) return compare(event.related, i, [t(ends(rule) ? "kept_row" : "other_row"), t(ends(rule) ? "removed_row" : "this_row")]);
  return action === "changed" ? changes(i, rule) : fullTexts(i);
}

// --- a record's story ---

function story(i) {
  const { records, sources } = data.core, steps = eventsOf(i);
  const made = isMade(i), source = sources[records.source[i]];
  const items = [h("li", {}, badge("read", t(made ? "action_made" : "action_read")), " ", made ? t("made_by", { source }) : t("read_as", { row: number(records.row[i]), source }))];
  for (const event of steps) {
    const action = data.core.rules[event.rule][1];
    items.push(h("li", {}, badge(action, t("action_" + action)), " ", link("rule=" + data.keys[event.rule], {}, ruleName(event.rule)), event.detail ? h("span", { class: "detail" }, " · ", plain(detailText(event))) : null,
      event.related !== null && h("span", { class: "detail" }, " · ", recordLink(event.related)), event.similarity !== null && h("span", { class: "detail" }, " · ", similarityText(event)), h("p", { class: "why" }, ruleWhy(event.rule))));
  }
  if (data.end[i] < 0) items.push(h("li", {}, badge("kept", t("action_kept")), " ", t("kept_as", { split: t("kind_" + fateOf(i)), tokens: records.tokens[i] === null ? "–" : number(records.tokens[i]) })));
  return h("ol", { class: "story" }, items);
}

function recordView(i) {
  const { records } = data.core, same = data.byHash.get(hashOf(i));
  const changed = eventsOf(i).some((event) => data.core.rules[event.rule][1] === "changed");
  const pairs = eventsOf(i).filter((event) => event.related !== null);
  const once = pairs.filter((event, at) => pairs.findIndex((other) => other.related === event.related) === at);
  return h("article", { class: "record" },
    h("header", { class: "record-head" }, h("h2", {}, h("span", { class: "id" }, records.id[i])), h("p", {}, fateBadge(i), " ", decisionBadge(i)), !isMade(i) && h("p", { class: "meta" }, `${t("content_hash")} `, h("code", {}, hashOf(i)), same.length > 1 && " · " + t("copies", { n: same.length }))),
    isMade(i) ? madePanel(i) : decisionPanel(i),
    h("section", { class: "panel" }, h("h3", {}, t("story")), story(i)),
    changed && h("section", { class: "panel" }, h("h3", {}, t("changes")), h("p", { class: "note" }, t("changes_note")), changes(i)),
    once.map((event) => h("section", { class: "panel" }, h("h3", {}, ruleName(event.rule)), evidence(i, event.rule))),
    hitsOf(i).length > 0 && h("section", { class: "panel" }, h("h3", {}, t("benchmark_hits")), hitTable(hitsOf(i))),
    h("section", { class: "panel" }, h("h3", {}, t("texts")), fullTexts(i)));
}

const hitsOf = (i) => data.core.hits.filter((hit) => hit.id === data.core.records.id[i]);

function hitTable(hits) {
  return h("div", { class: "scroll" }, h("table", { class: "stacked" }, h("thead", {}, h("tr", {}, ["hit_record", "hit_benchmark", "hit_item", "hit_how", "similarity"].map((name) => h("th", { scope: "col" }, t(name))))),
    h("tbody", {}, hits.map((hit) => h("tr", {}, h("td", { "data-label": t("hit_record") }, data.byId.has(hit.id) ? recordLink(data.byId.get(hit.id)) : hit.id), h("td", { "data-label": t("hit_benchmark") }, hit.benchmark), h("td", { "data-label": t("hit_item") }, h("code", {}, hit.item)), h("td", { "data-label": t("hit_how") }, t("how_" + hit.how), hit.kept && [" ", badge("decided keep", t("kept_by_curator"))]), h("td", { "data-label": t("similarity") }, hit.similarity === null ? "–" : hit.similarity.toFixed(3)))))));
}

// --- the panel that decides ---

// Rows without three texts to train on, and to edit.
const UNREAD = new Set(["invalid_json", "invalid_utf8", "nan_literal", "duplicate_key", "not_object", "lone_surrogate", "too_deep", "row_too_long", "ragged_row", "think_block"]);
// Rules that no decision overrules, since nothing could be trained on such a row; an edit can mend the text.
const BEYOND = new Set(["missing_field", "not_text", "empty_field", "control_character", "control_token", "cutoff_len", "control_token_id", "unknown_token_id", "prompt_mismatch", "target_mismatch", "mask_mismatch", "eos_mismatch", "bridges_splits"]);

const REASONS = ["reason_wrong_fact", "reason_unsafe", "reason_duplicate", "reason_not_duplicate", "reason_good", "reason_truncated"];

function madePanel(i) {
  const parent = parentOf(i);
  return h("section", { class: "panel" }, h("h3", {}, t("your_decision")), h("p", { class: "note" }, t("decide_parent"), " ", parent === undefined ? data.core.records.id[i].split("-aug-")[0] : recordLink(parent)));
}

function decisionPanel(i) {
  const hash = hashOf(i), decision = decisionOf(hash), entry = textsOf(i);
  const chosen = { decision: decision ? decision.decision : "" };
  const list = "reasons-" + hash;
  const reason = h("input", { type: "text", id: "reason-" + hash, list, value: decision ? decision.reason : "", placeholder: t("reason_hint") });
  const reviewer = h("input", { type: "text", id: "reviewer-" + hash, value: (decision && decision.reviewer) || store.reviewer, autocomplete: "name", placeholder: t("reviewer_hint") });
  const editor = h("div", { class: "editor" });
  const hint = h("p", { class: "problem", role: "alert" });
  const end = data.end[i] < 0 ? "" : data.core.rules[data.end[i]][2], unreadable = UNREAD.has(end) || Boolean(entry && entry.unreadable !== undefined);
  const texts = entry && !unreadable ? editFields(entry, decision, editor) : null;
  const choices = ["keep", "drop", "edit"].map((verb) => h("button", { type: "button", class: "choice " + verb, "data-verb": verb, "aria-pressed": String(chosen.decision === verb), disabled: (verb === "edit" && !texts) || (verb === "keep" && unreadable), onclick: () => choose(verb) }, t("verb_" + verb)));
  function choose(verb) {
    chosen.decision = verb;
    choices.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.verb === verb)));
    form.hidden = false;
    editor.hidden = verb !== "edit";
    (verb === "edit" && texts ? editor.querySelector("textarea") : reason).focus();
  }
  function submit(event) {
    event.preventDefault();
    const edited = chosen.decision === "edit" ? texts.read() : {};
    const problem = !reason.value.trim() ? "need_reason" : !reviewer.value.trim() ? "need_reviewer" : chosen.decision === "edit" && texts.blocked().length ? "need_consent" : chosen.decision === "edit" && !Object.keys(edited).length ? "need_edit" : "";
    hint.textContent = problem && t(problem, { fields: texts ? texts.blocked().map((name) => t("field_" + name)).join(t("list_comma")) : "" });
    if (problem) return;
    decide(hash, chosen.decision, reason.value.trim(), reviewer.value.trim(), edited);
    say(t("saved_" + chosen.decision));
    refresh();
  }
  const form = h("form", { class: "decision-form", hidden: !decision, onsubmit: submit },
    editor,
    h("div", { class: "row" }, h("label", { for: reason.id }, t("reason")), reason, h("datalist", { id: list }, REASONS.map((name) => h("option", { value: t(name) })))),
    h("div", { class: "row" }, h("label", { for: reviewer.id }, t("reviewer")), reviewer),
    hint,
    h("div", { class: "row actions" }, h("button", { type: "submit", class: "primary" }, t("save_decision")), decision && h("button", { type: "button", class: "quiet", onclick: () => { withdraw(hash); say(t("withdrawn")); refresh(); } }, t("withdraw"))));
  editor.hidden = chosen.decision !== "edit";
  return h("section", { class: "panel decision", "data-hash": hash }, h("h3", {}, t("your_decision")), decision && h("p", { class: "note" }, t(decision.draft ? "is_draft" : "is_stored", { verb: t("decided_" + decision.decision), reviewer: decision.reviewer, date: decision.date })), decision && decision.masked && h("p", { class: "warning" }, t("stored_masked")), (unreadable || BEYOND.has(end)) && h("p", { class: "note" }, t(unreadable ? "beyond_reading" : "beyond_keeping")), h("div", { class: "choices", role: "group", "aria-label": t("your_decision") }, choices), form);
}

// Text fields for an edit. A field that is shown masked must not go back into the data unnoticed: it counts only with consent.
function editFields(entry, decision, editor) {
  const shown = nowOf(entry), areas = {}, consents = {};
  FIELDS.forEach((name, f) => {
    const id = `edit-${name}-${Math.random().toString(36).slice(2)}`;
    const hidden = (entry.masked || []).includes(f) || PLACEHOLDER.test(shown[f]);
    areas[name] = h("textarea", { id, rows: name === "reasoning" ? 9 : 4, value: (decision && decision.decision === "edit" && decision[name]) || shown[f] });
    if (hidden) consents[name] = h("input", { type: "checkbox", id: id + "-ok" });
    append(editor, [h("label", { for: id }, t("field_" + name)), areas[name], hidden && h("p", { class: "warning" }, t("edit_masked", { field: t("field_" + name), places: (shown[f].match(new RegExp(PLACEHOLDER, "gu")) || []).join(" ") }), h("label", { class: "consent", for: id + "-ok" }, consents[name], t("edit_consent")))]);
  });
  append(editor, [h("p", { class: "note" }, t("edit_note"))]);
  const changed = () => FIELDS.filter((name, f) => areas[name].value.trim() && areas[name].value !== shown[f]);
  return {
    blocked: () => changed().filter((name) => consents[name] && !consents[name].checked),
    read: () => Object.fromEntries(changed().map((name) => [name, areas[name].value])),
  };
}
