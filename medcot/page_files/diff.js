// Differences between two texts, and characters that cannot be seen made visible.

// A Han character is a token, a word or a number is one, all else is one each: 0.5 mg and 0.05 mg differ in a whole number.
const TOKEN = /\p{Script=Han}|[\p{L}\p{M}]+|\p{N}+(?:[.,:/]\p{N}+)*|[\s\S]/gu;
const MAX_STEPS = 1500; // edits; two texts further apart are shown as two texts

function tokens(text) {
  return text.match(TOKEN) || [];
}

// Runs of [sign, text]: "=" in both, "-" in the first only, "+" in the second only (Myers 1986, with the common ends cut off first).
function diff(before, after) {
  const a = tokens(before), b = tokens(after);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const runs = [];
  if (start) runs.push(["=", a.slice(0, start).join("")]);
  runs.push(...middle(a.slice(start, a.length - end), b.slice(start, b.length - end)));
  if (end) runs.push(["=", a.slice(a.length - end).join("")]);
  return runs;
}

function middle(a, b) {
  if (!a.length || !b.length) return [...(a.length ? [["-", a.join("")]] : []), ...(b.length ? [["+", b.join("")]] : [])];
  const trace = shortest(a, b);
  return trace ? bridge(path(a, b, trace)) : [["-", a.join("")], ["+", b.join("")]];
}

// For each number of edits, the furthest point reached on each diagonal.
function shortest(a, b) {
  const limit = Math.min(a.length + b.length, MAX_STEPS), offset = limit + 1;
  const furthest = new Int32Array(2 * limit + 3), trace = [];
  for (let d = 0; d <= limit; d++) {
    trace.push(furthest.slice(offset - d - 1, offset + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && furthest[offset + k - 1] < furthest[offset + k + 1]);
      let x = down ? furthest[offset + k + 1] : furthest[offset + k - 1] + 1, y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) { x++; y++; }
      furthest[offset + k] = x;
      if (x >= a.length && y >= b.length) return trace;
    }
  }
  return null;
}

function path(a, b, trace) {
  const runs = [];
  let x = a.length, y = b.length;
  const put = (sign, token) => {
    const last = runs[runs.length - 1];
    if (last && last[0] === sign) last[1].push(token);
    else runs.push([sign, [token]]);
  };
  for (let d = trace.length - 1; d >= 0; d--) {
    const at = (k) => trace[d][k + d + 1], k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const fromX = d ? (down ? at(k + 1) : at(k - 1)) : 0, fromY = d ? fromX - (down ? k + 1 : k - 1) : 0;
    while (x > fromX && y > fromY) { put("=", a[x - 1]); x--; y--; }
    if (d) {
      if (down) { put("+", b[y - 1]); y--; } else { put("-", a[x - 1]); x--; }
    }
  }
  return runs.reverse().map(([sign, list]) => [sign, list.reverse()]);
}

// A single equal token between two changes only tears them apart for the eye: it becomes part of the change.
function bridge(runs) {
  const out = [];
  let removed = [], added = [];
  const flush = () => {
    if (removed.length) out.push(["-", removed.join("")]);
    if (added.length) out.push(["+", added.join("")]);
    removed = []; added = [];
  };
  runs.forEach(([sign, list], i) => {
    const short = sign === "=" && list.length === 1 && i > 0 && i < runs.length - 1 && !/[\p{N}\n]/u.test(list[0]);
    if (sign === "=" && !short) { flush(); out.push(["=", list.join("")]); return; }
    if (sign !== "+") removed.push(...list);
    if (sign !== "-") added.push(...list);
  });
  flush();
  return out;
}

// --- what cannot be seen ---

const NAMES = {
  "\u00a0": "NBSP", "\u00ad": "SHY", "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u2060": "WJ", "\ufeff": "BOM", "\u3000": "U+3000",
  "\u2028": "LS", "\u2029": "PS", "\t": "TAB", "\r": "CR", "\ufffd": "U+FFFD",
};
const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2000-\u200a\u2028-\u202f\u205f-\u2069\u3000\ufeff\ufffd-\uffff]/;
const PLACEHOLDER = /\[(?:身份证号|银行卡号|手机号|电话|邮箱|证件号|医保号|病历号|账号|地址|姓名|ID|CARD|MOBILE|PHONE|EMAIL|PASSPORT|INSURANCE|RECORD|ACCOUNT|ADDRESS|NAME)\d+\]/u;
const SPECIAL = new RegExp(`(${UNSEEN.source}|${PLACEHOLDER.source})`, "u"); // no other group: split() would repeat it

function visible(character) {
  const code = character.codePointAt(0);
  return NAMES[character] || "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

// A text as nodes: unseen characters as small labels, placeholders of masked data marked; `ends` shows spaces and line ends too.
function plain(text, ends) {
  return text.split(SPECIAL).map((part) => {
    if (!part) return null;
    if (part.length === 1 && UNSEEN.test(part)) return h("span", { class: "unseen", title: t("unseen") }, visible(part));
    if (part[0] === "[" && PLACEHOLDER.test(part)) return h("span", { class: "masked", title: t("masked_place") }, part);
    return ends ? part.replace(/ /g, "·").replace(/\n/g, "↵\n") : part;
  });
}

// Both texts in one: what went struck through, what came underlined.
function inlineDiff(before, after) {
  return diff(before, after).map(([sign, text]) => {
    if (sign === "=") return h("span", { class: "same" }, plain(fold(text)));
    return h(sign === "-" ? "del" : "ins", {}, plain(text, true));
  });
}

const CONTEXT = 60; // characters kept on either side of a long equal run

function fold(text) {
  const all = [...text];
  return all.length <= 4 * CONTEXT ? text : all.slice(0, CONTEXT).join("") + " […] " + all.slice(-CONTEXT).join("");
}

// One side of a comparison, marked where it differs from the other.
function sideDiff(runs, sign) {
  return runs.filter(([s]) => s === "=" || s === sign).map(([s, text]) => (s === "=" ? plain(text) : h("mark", { class: sign === "-" ? "a" : "b" }, plain(text, true))));
}
