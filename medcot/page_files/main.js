// Where the page is, its header, its keys, and its start.

let route = {};

function readRoute() {
  const found = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (found.record !== undefined) return { ...found, view: "records" };
  if (found.rule !== undefined && found.view === undefined) return { view: "rule", key: found.rule };
  return { ...found, view: VIEWS.includes(found.view) ? found.view : "overview" };
}

const DRAW = { overview, records: recordsView, duplicates: duplicatesView, conflicts: conflictsView, exposure: exposureView, decisions: decisionsView, rule: () => ruleView(route.key) };

function refresh() {
  const main = document.getElementById("main"), focused = document.activeElement && document.activeElement.id, caret = focused === "search" ? document.activeElement.selectionStart : null;
  const list = document.getElementById("list"), scroll = list && list.scrollTop;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = `medcot · ${t("title")}`;
  document.getElementById("skip").textContent = t("skip");
  drawHeader();
  main.className = "view-" + route.view;
  replace(main, DRAW[route.view]());
  if (focused === "search" || focused === "list") {
    const again = document.getElementById(focused);
    if (again) { again.focus({ preventScroll: true }); if (caret !== null) again.setSelectionRange(caret, caret); }
  }
  if (scroll && document.getElementById("list")) requestAnimationFrame(() => { const box = document.getElementById("list"); if (box && route.record !== undefined) { box.scrollTop = scroll; keepInSight(box); drawRows(box); } });
}

function navigate() {
  const before = route;
  route = readRoute();
  refresh();
  if (before.view !== route.view || before.key !== route.key || before.record !== route.record) window.scrollTo(0, 0);
}

function drawHeader() {
  const drafts = numDrafts();
  replace(document.getElementById("top"),
    h("div", { class: "brand" }, h("h1", {}, "medcot", h("span", {}, t("title"))), h("div", { class: "tools" }, h("button", { type: "button", id: "language", class: "quiet", lang: language === "zh" ? "en" : "zh-CN", onclick: switchLanguage }, language === "zh" ? "English" : "中文"), h("button", { type: "button", class: "quiet", "aria-label": t("help"), onclick: help }, "?"))),
    h("nav", { "aria-label": t("views") }, VIEWS.map((view) => link("view=" + view, { "aria-current": route.view === view || (view === "overview" && route.view === "rule") ? "page" : null }, t("view_" + view), view === "decisions" && drafts > 0 && h("span", { class: "count" }, drafts)))));
}

function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  save("medcot.language", language);
  refresh();
  document.getElementById("language").focus();
}

function openDialog(title, ...content) {
  const dialog = document.getElementById("dialog");
  replace(dialog, h("h2", {}, title), content, h("form", { method: "dialog" }, h("button", { class: "quiet" }, t("close"))));
  dialog.showModal();
}

const KEYS = [["j k ↓ ↑", "key_move"], ["Enter", "key_open"], ["Esc", "key_back"], ["y n", "key_mark"], ["1 2 3", "key_decide"], ["/", "key_search"], ["?", "help"]];

function help() {
  openDialog(t("help"), h("dl", { class: "keys" }, KEYS.map(([keys, what]) => [h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, t(what))])));
}

// --- keys ---

function onKey(event) {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("dialog").open) return;
  if (event.key === "Escape") { if (typing) event.target.blur(); else if (route.record !== undefined) location.hash = listHash(); else if (route.view === "rule") location.hash = "view=overview"; return; }
  if (typing) return;
  const action = { j: () => move(1), ArrowDown: () => inList() && move(1), k: () => move(-1), ArrowUp: () => inList() && move(-1), Enter: openChosen, y: () => press("right"), n: () => press("wrong"), 1: () => press("keep", "both"), 2: () => press("drop", "a"), 3: () => press("edit", "b"), "/": () => focusSearch(), "?": help }[event.key];
  if (action && action() !== false) event.preventDefault();
}

const inList = () => route.view === "records" && document.activeElement && (document.activeElement.id === "list" || document.activeElement.closest("#list") !== null);

function move(step) {
  if (route.view === "records") return moveInList(step);
  const cards = [...document.querySelectorAll(".card")], at = cards.indexOf(document.activeElement && document.activeElement.closest(".card"));
  const next = cards[Math.min(cards.length - 1, Math.max(0, at + step))];
  if (!next) return false;
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "start" });
}

function moveInList(step) {
  const box = document.getElementById("list");
  if (!box || !data.found.length) return false;
  data.at = Math.min(data.found.length - 1, Math.max(0, data.at + step));
  if (route.record !== undefined) { location.hash = listHash(data.found[data.at]); return; }
  box.focus({ preventScroll: true });
  keepInSight(box);
  drawRows(box);
}

function keepInSight(box) {
  const top = data.at * ROW;
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
}

function openChosen() {
  if (document.activeElement.tagName === "A" || document.activeElement.tagName === "BUTTON") return false;
  if (route.view === "records" && data.found.length) { location.hash = listHash(data.found[data.at]); return; }
  const card = document.activeElement.closest(".card");
  if (!card) return false;
  location.hash = "record=" + card.dataset.record;
}

// Press the button of this meaning in the card or the record that has the focus.
function press(...verbs) {
  const scope = document.activeElement.closest(".card") || document.querySelector(".record");
  const button = scope && verbs.map((verb) => scope.querySelector(`button[data-verb="${verb}"]`)).find(Boolean);
  if (!button || button.disabled) return false;
  button.click();
}

function focusSearch() {
  if (route.view !== "records") { location.hash = "view=records"; setTimeout(focusSearch, 60); return; }
  document.getElementById("search").focus();
}

async function start() {
  chooseLanguage();
  try {
    await openCore();
  } catch (error) {
    replace(document.getElementById("main"), empty(t("cannot_open", { error: error.message })));
    return;
  }
  openStore(data.core);
  route = readRoute();
  refresh();
  window.addEventListener("hashchange", navigate);
  window.addEventListener("resize", () => { const box = document.getElementById("list"); if (box) drawRows(box); });
  document.addEventListener("keydown", onKey);
  performance.mark("interactive");
  await new Promise((done) => setTimeout(done, 0)); // paint first, then open the texts
  await openTexts();
  performance.mark("complete");
  refresh();
}

start();
