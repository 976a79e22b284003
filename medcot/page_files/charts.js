// Histograms as inline SVG, each with its numbers as a table beneath.

const LENGTH_KINDS = ["train", "val", "test", "left_out"];
const VERDICTS = ["duplicate", "conflict", "similar", "below"];

function figure(title, note, drawing, head, rows) {
  const table = h("details", {}, h("summary", {}, t("as_table")), h("div", { class: "scroll" }, h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value) => h("td", {}, typeof value === "number" ? number(value) : value))))))));
  return h("figure", { class: "chart" }, h("figcaption", {}, h("strong", {}, title), h("span", {}, note)), drawing, table);
}

const legend = (kinds, name) => h("p", { class: "legend" }, kinds.map((kind) => h("span", {}, h("i", { class: "swatch fill-" + kind }), t(name + kind))));

// One axis tick: where (0 to 1) and its label.
function frame(width, height, xTicks, yTicks, xLabel, yLabel, bars, lines = []) {
  const left = 50, bottom = 42, top = 8, right = 16, w = width - left - right, tall = height - top - bottom;
  const x = (share) => left + share * w, y = (share) => top + (1 - share) * tall;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} / ${xLabel}`, class: "plot" },
    yTicks.map(([at, label]) => [svg("line", { x1: left, x2: width - right, y1: y(at), y2: y(at), class: "grid" }), svg("text", { x: left - 6, y: y(at) + 4, class: "tick end" }, label)]),
    bars.map(({ from, to, low, high, kind, title }) => svg("rect", { x: x(from).toFixed(1), width: Math.max(0.8, x(to) - x(from) - 0.6).toFixed(1), y: y(high).toFixed(1), height: Math.max(0, y(low) - y(high)).toFixed(1), class: "fill-" + kind }, svg("title", {}, title))),
    lines.map(([at, label]) => svg("line", { x1: x(at), x2: x(at), y1: y(1), y2: y(0), class: "threshold" }, svg("title", {}, label))),
    xTicks.map(([at, label]) => [svg("line", { x1: x(at), x2: x(at), y1: y(0), y2: y(0) + 4, class: "axis" }), svg("text", { x: x(at), y: height - bottom + 17, class: "tick mid" }, label)]),
    svg("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), class: "axis" }),
    svg("text", { x: left + w / 2, y: height - 5, class: "label mid" }, xLabel),
    svg("text", { x: 12, y: top + tall / 2, class: "label mid", transform: `rotate(-90 12 ${top + tall / 2})` }, yLabel));
}

function niceTicks(max) {
  const step = [1, 2, 5].flatMap((m) => [0, 1, 2, 3, 4, 5].map((p) => m * 10 ** p)).sort((a, b) => a - b).find((s) => max / s <= 5) || max;
  return Array.from({ length: Math.floor(max / step) + 1 }, (_, i) => i * step);
}

// Rows by length: stacked by split, tokens on a logarithmic axis.
function lengthChart(rows) {
  if (!rows.length) return empty(t("no_lengths"));
  const low = Math.log(Math.min(...rows.map((r) => r.from))), high = Math.log(Math.max(...rows.map((r) => r.to)));
  const at = (value) => (Math.log(value) - low) / (high - low), sum = (row) => LENGTH_KINDS.reduce((n, kind) => n + row[kind], 0);
  const max = Math.max(...rows.map(sum));
  const bars = rows.flatMap((row) => {
    let base = 0;
    return LENGTH_KINDS.filter((kind) => row[kind]).map((kind) => {
      const bar = { from: at(row.from), to: at(row.to), low: base / max, high: (base + row[kind]) / max, kind, title: `${row.from}–${row.to}: ${t("kind_" + kind)} ${row[kind]}` };
      base += row[kind];
      return bar;
    });
  });
  const ticks = (steps) => steps.flatMap((m) => [0, 1, 2, 3, 4, 5, 6].map((p) => m * 10 ** p)).filter((v) => at(v) >= -0.001 && at(v) <= 1.001);
  const some = ticks([1, 2, 5]), xs = (some.length > 2 ? some : ticks([1, 1.5, 2, 3, 4, 5, 7])).map((v) => [at(v), number(v)]);
  const plot = frame(430, 240, xs, niceTicks(max).map((v) => [v / max, number(v)]), t("axis_tokens"), t("axis_rows"), bars);
  return figure(t("lengths_title"), t("lengths_note"), [legend(LENGTH_KINDS, "kind_"), plot], [t("axis_tokens"), ...LENGTH_KINDS.map((kind) => t("kind_" + kind))], rows.map((row) => [`${row.from}–${row.to}`, ...LENGTH_KINDS.map((kind) => row[kind])]));
}

// Pairs by similarity for one key: counts side by side on a logarithmic axis, because a few duplicates stand beside many similar pairs.
function similarityChart(key, rows) {
  const kinds = VERDICTS.filter((kind) => rows.some((row) => row[kind])), threshold = rows[0].threshold;
  const max = Math.max(1, ...rows.flatMap((row) => kinds.map((kind) => row[kind]))), floor = Math.log(0.7), top = Math.log(max * 1.15);
  const up = (n) => (n ? (Math.log(n) - floor) / (top - floor) : 0), start = Math.floor(10 * Math.min(...rows.map((r) => r.from)) + 1e-9) / 10, span = 1 - start;
  const bars = rows.flatMap((row) => kinds.map((kind, i) => {
    const width = (row.to - row.from) / kinds.length;
    return { from: (row.from + i * width - start) / span, to: (row.from + (i + 1) * width - start) / span, low: 0, high: up(row[kind]), kind, title: `${row.from.toFixed(2)}–${row.to.toFixed(2)}: ${t("verdict_" + kind)} ${row[kind]}` };
  }).filter((bar) => bar.high));
  const xs = [];
  for (let v = start; v <= 1.0001; v += span > 0.3 ? 0.1 : 0.05) xs.push([(v - start) / span, v.toFixed(2)]);
  const ys = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000, 100000].filter((v) => max < 100 || Math.log10(v) % 1 === 0).filter((v) => v <= max * 1.15).map((v) => [up(v), number(v)]);
  const plot = frame(430, 240, xs, ys, t("axis_similarity"), t("axis_pairs"), bars, threshold >= start ? [[(threshold - start) / span, t("threshold_line", { value: threshold })]] : []);
  return figure(t("similarity_title", { key: t("key_" + key) }), t("similarity_note") + (threshold ? " " + t("threshold_line", { value: threshold }) + t("full_stop") : ""), [legend(kinds, "verdict_"), plot], [t("axis_similarity"), ...kinds.map((kind) => t("verdict_" + kind))], rows.map((row) => [`${row.from.toFixed(2)}–${row.to.toFixed(2)}`, ...kinds.map((kind) => row[kind])]));
}

const empty = (text) => h("p", { class: "empty" }, text);
