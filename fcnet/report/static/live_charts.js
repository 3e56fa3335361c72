// The views of the live demo: activations, class probabilities, and the plots below the sliders.

const SVG = "http://www.w3.org/2000/svg";
const MAX_BARS = 40;
const MIN_BAR_SLOTS = 6; // keeps the bars of a layer with few units narrow

/** Creates an HTML element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Creates an SVG element with attributes and children. */
function svgElement(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Sets a text that screen readers read aloud, only if it is another one. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const formatPercent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
const formatNumber = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)).replace("-", "−");
const maxOf = (values) => values.reduce((a, b) => Math.max(a, b));
const minOf = (values) => values.reduce((a, b) => Math.min(a, b));

/** Reads a CSS colour variable of the form `#rrggbb` as [red, green, blue]. */
function readColor(root, name) {
  const text = getComputedStyle(root).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

/** Draws a bar for each unit, up or down from 0. */
function drawBars(chart, values, top) {
  const bars = Array.from(values, (value, unit) => {
    const height = Math.min(1, Math.abs(value) / top);
    const sign = value < 0 ? "negative" : "positive";
    return svgElement("rect", { x: unit + 0.1, width: 0.8, y: value < 0 ? 1 : 1 - height, height, class: `live-${sign}` });
  });
  const width = Math.max(values.length, MIN_BAR_SLOTS);
  const allPositive = minOf(values) >= 0;
  chart.setAttribute("viewBox", `0 0 ${width} ${allPositive ? 1 : 2}`);
  chart.replaceChildren(svgElement("line", { x1: 0, x2: width, y1: 1, y2: 1, class: "live-axis" }), ...bars);
}

/** The number of squares in a row of the map: about twice as many as there are rows. */
const numColumns = (units) => Math.ceil(Math.sqrt(2 * units));

/** Draws a square for each unit, row by row; a stronger colour means a larger magnitude. */
function drawMap(root, canvas, values, top) {
  const colours = ["--live-paper", "--live-positive", "--live-negative"].map((name) => readColor(root, name));
  canvas.width = numColumns(values.length);
  canvas.height = Math.ceil(values.length / canvas.width);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, unit) => {
    const strength = Math.min(1, Math.abs(value) / top);
    const [paper, ink] = [colours[0], colours[value < 0 ? 2 : 1]];
    for (let i = 0; i < 3; i++) image.data[4 * unit + i] = paper[i] + strength * (ink[i] - paper[i]);
    image.data[4 * unit + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

/** One layer's activations: a chart, their range, the value under the pointer, and a list of all values. */
class LayerView {
  constructor(root, layer) {
    this.root = root;
    this.layer = layer;
    this.top = layer.activation === "sigmoid" ? 1 : 0;
    this.small = layer.units <= MAX_BARS;
    this.chart = this.small ? svgElement("svg", { preserveAspectRatio: "none" }) : element("canvas");
    this.chart.setAttribute("role", "img");
    this.chart.classList.add(this.small ? "live-bars" : "live-map");
    this.note = element("p", { class: "live-note" });
    this.list = element("p", { class: "live-values" });
    this.details = element("details", {}, element("summary", {}, "Values"), this.list);
    this.name = layer.name;
    const title = element("figcaption", {}, element("strong", {}, this.name), ` ${this.kind()}`);
    this.figure = element("figure", { class: "live-layer" }, title, this.chart, this.note, this.details);
    this.details.addEventListener("toggle", () => this.showList());
    for (const type of ["pointerdown", "pointermove"]) {
      this.chart.addEventListener(type, (event) => this.onPointerMove(event));
    }
    // A finger leaves as soon as it has touched: its value stays.
    this.chart.addEventListener("pointerleave", ({ pointerType }) => pointerType === "touch" || this.describe());
  }

  kind() {
    const { units, activation, gain, residual } = this.layer;
    const words = [`${units} ${units === 1 ? "unit" : "units"}`];
    if (activation !== "identity") words.push(activation.replace("_", " "));
    if (gain) words.push("layer norm");
    if (residual) words.push("residual");
    return words.join(", ");
  }

  show(values) {
    this.values = values;
    this.top = values.reduce((top, value) => Math.max(top, Math.abs(value)), this.top);
    if (this.small) drawBars(this.chart, values, this.top || 1);
    else drawMap(this.root, this.chart, values, this.top || 1);
    this.describe();
    this.showList();
  }

  describe() {
    const numZeros = this.values.filter((value) => value === 0).length;
    const range = `${formatNumber(minOf(this.values))} to ${formatNumber(maxOf(this.values))}`;
    this.note.textContent = numZeros ? `${range}; ${formatPercent(numZeros / this.values.length)} are 0` : range;
    this.chart.setAttribute("aria-label", `${this.name}, ${this.kind()}: ${this.note.textContent}`);
  }

  showList() {
    if (!this.details.open) return;
    this.list.textContent = Array.from(this.values, (value, unit) => `${unit + 1}: ${formatNumber(value)}`).join(" · ");
  }

  onPointerMove(event) {
    const box = this.chart.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const columns = this.small ? Math.max(this.values.length, MIN_BAR_SLOTS) : this.chart.width;
    const row = this.small ? 0 : Math.floor(((event.clientY - box.top) / box.height) * this.chart.height);
    const unit = row * columns + Math.floor(across * columns);
    if (unit in this.values) this.note.textContent = `unit ${unit + 1}: ${formatNumber(this.values[unit])}`;
  }
}

const MAX_CLASSES = 12;

const MAX_NAME_BESIDE = 20; // a longer name stands above its bar

/** Adds rows of a class's name, a bar and a value to a list. */
function addRows(list, count, names) {
  list.classList.toggle("live-stacked", names.some((name) => name.length > MAX_NAME_BESIDE));
  return Array.from({ length: Math.min(count, MAX_CLASSES) }, () => addRow(list));
}

function addRow(list) {
  const parts = ["name", "bar", "number"].map((part) => element("span", { class: `live-${part}` }));
  parts[1].append(element("span"));
  list.append(element("li", {}, ...parts));
  return parts;
}

/** The class probabilities as bars: all classes in their order, or the 12 most probable if there are more. */
class ProbabilityView {
  constructor(list, classes, names) {
    Object.assign(this, { classes, names });
    this.rows = addRows(list, classes.length, names);
  }

  show(probabilities, order) {
    const shown = this.classes.length > this.rows.length ? order.slice(0, this.rows.length) : this.classes.keys();
    [...shown].forEach((label, row) => {
      const [name, bar, probability] = this.rows[row];
      name.textContent = this.names[label];
      name.title = this.classes[label];
      probability.textContent = formatPercent(probabilities[label]);
      bar.firstChild.style.width = formatPercent(probabilities[label]);
      name.parentNode.classList.toggle("live-best", label === order[0]);
    });
  }
}

/**
 * The logits as bars to both sides of 0, each with its class's name: all classes in their order, or the 12 largest logits
 * if there are more. A single output node is one bar between the names of the two classes.
 */
class LogitView {
  constructor(layer, classes, names) {
    Object.assign(this, { classes, names });
    this.single = layer.units === 1;
    this.top = 0;
    const count = layer.units;
    const words = this.single ? "1 unit" : `${count} units`;
    const title = element("figcaption", {}, element("strong", {}, "Output (logits)"), ` ${words}`);
    this.bars = element("ul", { class: "live-rows live-logits" });
    this.note = element("p", { class: "live-note" });
    this.list = element("p", { class: "live-values" });
    this.details = element("details", {}, element("summary", {}, "Values"), this.list);
    this.figure = element("figure", { class: "live-layer" }, title, this.bars, this.note, this.details);
    this.rows = addRows(this.bars, count, names);
    this.details.addEventListener("toggle", () => this.showList());
  }

  show(values, order) {
    this.values = values;
    this.top = values.reduce((top, value) => Math.max(top, Math.abs(value)), this.top);
    const shown = values.length > this.rows.length ? order.slice(0, this.rows.length) : values.keys();
    [...shown].forEach((label, row) => {
      const [name, bar, number] = this.rows[row];
      const length = (50 * Math.abs(values[label])) / (this.top || 1);
      name.textContent = this.names[this.classOf(label)];
      name.title = this.classes[this.classOf(label)];
      number.textContent = formatNumber(values[label]);
      bar.firstChild.style.width = `${length}%`;
      bar.firstChild.style.left = `${values[label] < 0 ? 50 - length : 50}%`;
      bar.firstChild.className = values[label] < 0 ? "live-negative" : "live-positive";
      name.parentNode.classList.toggle("live-best", !this.single && label === order[0]);
    });
    if (this.single) this.note.textContent = `Above 0 for ${this.names[1]}, below 0 for ${this.names[0]}`;
    else this.note.textContent = this.range();
    this.showList();
  }

  range() {
    const range = `${formatNumber(minOf(this.values))} to ${formatNumber(maxOf(this.values))}`;
    return this.values.length > this.rows.length ? `the ${this.rows.length} largest; all from ${range}` : range;
  }

  /** The class whose logit a unit gives. */
  classOf(unit) {
    return this.single ? 1 : unit;
  }

  showList() {
    if (!this.details.open) return;
    this.list.textContent = Array.from(this.values, (value, unit) => {
      return `${this.classes[this.classOf(unit)]}: ${formatNumber(value)}`;
    }).join(" · ");
  }
}

const PLOT = { left: 34, right: 310, top: 10, bottom: 120 };
const plotX = (fraction) => PLOT.left + fraction * (PLOT.right - PLOT.left);
const plotY = (fraction) => PLOT.bottom - fraction * (PLOT.bottom - PLOT.top);
const polyline = (points, kind) => svgElement("polyline", { points: points.map((p) => p.join()).join(" "), class: kind });

/** A y axis from 0 to 1, and x ticks given as pairs of a fraction of the width and a text. */
function plotAxes(marks) {
  const lines = [0, 0.5, 1].flatMap((y) => [
    svgElement("line", { x1: PLOT.left, x2: PLOT.right, y1: plotY(y), y2: plotY(y), class: "live-grid" }),
    svgElement("text", { x: PLOT.left - 6, y: plotY(y) + 4, "text-anchor": "end" }, String(y)),
  ]);
  const texts = marks.map(([fraction, text]) =>
    svgElement("text", { x: plotX(fraction), y: PLOT.bottom + 16, "text-anchor": "middle" }, text),
  );
  return [...lines, ...texts];
}

/** Shows which line style belongs to which name. */
function drawLegend(list, names) {
  const sample = (style) => svgElement("svg", { viewBox: "0 0 26 8" }, svgElement("path", { class: `line s${style}`, d: "M1 4H25" }));
  list.replaceChildren(...names.map((name, style) => element("li", {}, sample(style), name)));
}

const STEPS = Array.from({ length: 121 }, (_, step) => step / 120);

/** Draws s(u) and s(c u) for u from −6 to 6, with a small dot for each hidden unit and a large one for the output. */
function drawSigmoids(chart, scaling, units, output) {
  const curve = (c) => STEPS.map((step) => [plotX(step), plotY(sigmoid(c * (12 * step - 6)))]);
  const dot = (u, r, kind) => {
    const across = (Math.min(6, Math.max(-6, u)) + 6) / 12;
    return svgElement("circle", { cx: plotX(across), cy: plotY(sigmoid(scaling * u)), r, class: kind });
  };
  const marks = [[0, "−6"], [0.5, "u = 0"], [1, "6"]];
  chart.replaceChildren(
    ...plotAxes(marks),
    polyline(curve(1), "line s2"),
    polyline(curve(scaling), "line s0"),
    ...Array.from(units, (u) => dot(u, 2.5, "live-dot")),
    ...output.map((u) => dot(u, 6, "live-dot live-best")),
  );
}

/** Draws the probabilities of the four most probable classes for scales of the logits from 1/10 to 10. */
function drawSoftmaxCurves(chart, scale, logits, order, names) {
  const top = order.slice(0, 4);
  const curves = STEPS.map((step) => softmax(logits, 10 ** (2 * step - 1)));
  const paths = top.map((label, rank) => {
    const points = curves.map((values, step) => [plotX(STEPS[step]), plotY(values[label])]);
    return polyline(points, `line s${rank}`);
  });
  const here = plotX((Math.log10(scale) + 1) / 2);
  const values = softmax(logits, scale);
  const dots = top.map((label, rank) =>
    svgElement("circle", { cx: here, cy: plotY(values[label]), r: 3.5, class: rank ? "live-dot" : "live-dot live-best" }),
  );
  const rule = svgElement("line", { x1: here, x2: here, y1: PLOT.top, y2: PLOT.bottom, class: "live-axis" });
  const marks = [[0, "1/10"], [0.5, "scale 1"], [1, "10"]];
  chart.replaceChildren(...plotAxes(marks), rule, ...paths, ...dots);
  drawLegend(chart.nextElementSibling, top.map((label) => names[label]));
}
