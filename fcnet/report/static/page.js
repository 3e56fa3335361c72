"use strict";
document.documentElement.classList.add("script");
// Shows a chart's values at the pointer or, with the arrow keys, at the selected point. The chart's attribute data-x, or
// data-y where the points are rows, holds the positions, and data-labels the texts.
for (const chart of document.querySelectorAll("svg[data-labels]")) {
  const axis = "x" in chart.dataset ? "x" : "y";
  const at = JSON.parse(chart.dataset[axis]);
  const labels = JSON.parse(chart.dataset.labels);
  const cursor = chart.querySelector(".cursor");
  const output = chart.parentElement.querySelector("output");
  let selected = -1; // no point
  const show = (next) => {
    selected = next;
    cursor.style.visibility = selected < 0 ? "hidden" : "visible";
    output.textContent = selected < 0 ? "" : labels[selected];
    if (selected >= 0) {
      cursor.setAttribute(axis + "1", at[selected]);
      cursor.setAttribute(axis + "2", at[selected]);
    }
  };
  const nearest = (place) =>
    at.reduce((best, value, index) => (Math.abs(value - place) < Math.abs(at[best] - place) ? index : best), 0);
  chart.setAttribute("tabindex", "0");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const place = axis === "x" ? event.clientX - box.left : event.clientY - box.top;
    show(nearest((place * chart.viewBox.baseVal.width) / box.width));
  });
  chart.addEventListener("pointerleave", () => show(-1));
  chart.addEventListener("focus", () => selected < 0 && show(0));
  chart.addEventListener("blur", () => show(-1));
  chart.addEventListener("keydown", (event) => {
    const last = at.length - 1;
    const [before, after] = [Math.max(selected - 1, 0), Math.min(selected + 1, last)];
    const keys = { ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: last };
    const next = axis === "x" && /Up|Down/.test(event.key) ? undefined : keys[event.key];
    if (next !== undefined) {
      event.preventDefault();
      show(next);
    }
  });
}
