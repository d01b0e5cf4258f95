// Charts, fresh values, keys. Every page works without; nothing here writes HTML: text goes in as text.
"use strict";

const REFRESH_MS = 2000;
const SAMPLES_MAX = 300;
const SAMPLES_MIN = 30;
const SVG = "http://www.w3.org/2000/svg";
let paused = false;

// Fresh values: the page is fetched again, and its live parts take the place of the old ones.

async function refresh() {
  const old = [...document.querySelectorAll("[data-live]")];
  if (paused || document.hidden || old.length === 0 || isInUse(old)) return;
  const response = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!response.ok || response.redirected) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of old) {
    const replacement = fresh.getElementById(part.id);
    if (replacement && !part.isEqualNode(replacement)) part.replaceWith(document.adoptNode(replacement));
  }
}

// Who reads with the keyboard, has marked a text or opened a message keeps the place.
function isInUse(parts) {
  const marked = getSelection();
  return parts.some(
    (part) =>
      part.contains(document.activeElement) ||
      part.querySelector("details[open]") ||
      (String(marked) && marked.containsNode(part, true)),
  );
}

async function keepFresh() {
  try {
    await refresh();
  } catch {
    // The broker is away for a moment, perhaps for a restart: what is shown stays.
  }
  setTimeout(keepFresh, REFRESH_MS);
}

// Charts.

function add(name, parent, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function describe(value, unit) {
  const short = (number) => Math.round(number * 10) / 10;
  if (unit !== "bytes") return `${short(value)} ${unit}`;
  const units = ["B", "KiB", "MiB", "GiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${short(value)} ${units[step]}/s`;
}

class Chart {
  constructor(figure) {
    this.field = figure.dataset.chart;
    this.unit = figure.dataset.unit;
    this.output = document.createElement("output");
    figure.querySelector("figcaption").append(this.output);
    const svg = add("svg", figure, { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
    this.title = add("title", svg);
    this.area = add("polygon", svg);
    this.line = add("polyline", svg);
  }

  draw(samples) {
    const values = samples.map((sample) => sample[this.field]);
    const most = Math.max(0, ...values);
    // The newest is at the right edge; what there is of ten minutes, and a minute at least, takes the width.
    const step = 300 / Math.max(SAMPLES_MIN, values.length - 1);
    const place = (at) => (300 - (values.length - 1 - at) * step).toFixed(2);
    const height = (value) => (98 - (value / (most * 1.1 || 1)) * 96).toFixed(2);
    const points = values.map((value, at) => `${place(at)},${height(value)}`).join(" ");
    this.line.setAttribute("points", points);
    this.area.setAttribute("points", points && `${place(0)},100 ${points} 300,100`);
    const now = describe(values.at(-1) ?? 0, this.unit);
    this.output.textContent = now;
    this.title.textContent = `now ${now}, at most ${describe(most, this.unit)}`;
  }
}

async function drawCharts() {
  const figures = [...document.querySelectorAll("[data-chart]")];
  if (figures.length === 0) return;
  const charts = figures.map((figure) => new Chart(figure));
  const owner = figures[0].closest("[data-topic]");
  const query = owner ? `?topic=${encodeURIComponent(owner.dataset.topic)}` : "";
  let samples = [];
  async function load() {
    const response = await fetch(`/api/v1/rates${query}`);
    if (response.ok) samples = (await response.json()).samples;
    for (const chart of charts) chart.draw(samples);
  }
  await load();
  const events = new EventSource("/api/v1/rates/events");
  events.addEventListener("sample", (event) => {
    if (paused) return;
    if (owner) {
      load().catch(() => {});
      return;
    }
    samples = [...samples, JSON.parse(event.data)].slice(-SAMPLES_MAX);
    for (const chart of charts) chart.draw(samples);
  });
}

// Keys.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const page = { "[": "prev", "]": "next" }[event.key];
  const link = document.querySelector(page ? `a[rel="${page}"]` : `[data-key="${CSS.escape(event.key)}"]`);
  if (link) link.click();
  else if (event.key === "/") document.querySelector("[data-search]")?.focus();
  else if (event.key === "p") {
    paused = !paused;
    document.getElementById("pause").textContent = paused ? "go on" : "pause";
  } else return;
  event.preventDefault();
});

drawCharts().catch(() => {});
setTimeout(keepFresh, REFRESH_MS);
