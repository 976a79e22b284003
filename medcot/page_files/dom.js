"use strict";
// Elements, languages and numbers. Text goes into the page as text nodes only, so that no record can become markup.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes, children, namespace) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

const h = (tag, attributes, ...children) => element(tag, attributes, children);
const svg = (tag, attributes, ...children) => element(tag, attributes, children, SVG);

function replace(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

// --- storage: a browser may refuse it to a local file; then what is decided lives as long as the page ---

const memory = new Map();
let storageWorks = true;

function load(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    storageWorks = false;
    return memory.get(key) ?? null;
  }
}

function save(key, value) {
  memory.set(key, value);
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    storageWorks = false;
  }
}

// --- languages ---

const STRINGS = JSON.parse(document.getElementById("strings").textContent);
let language = "en";

function chooseLanguage() {
  const stored = load("medcot.language");
  language = stored === "en" || stored === "zh" ? stored : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

// The string of this name, its {places} filled in; a name that the page does not know is shown as it is.
function t(name, values) {
  const entry = STRINGS[name];
  const text = entry ? entry[language] : name;
  return values ? text.replace(/\{(\w+)\}/g, (_, key) => values[key]) : text;
}

const number = (value) => value.toLocaleString("en-US");

function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  return (share >= 10 || share === 0 ? share.toFixed(1) : share.toPrecision(2)).replace(/\.0$/, "") + " %";
}

function say(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("on"), 4000);
}

// Wilson's interval for k of n at 95 %: also right where k is 0 or n.
function wilson(k, n) {
  const z = 1.959964;
  const centre = (k + (z * z) / 2) / (n + z * z);
  const half = (z * Math.sqrt((k * (n - k)) / n + (z * z) / 4)) / (n + z * z);
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}
