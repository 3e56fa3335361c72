"use strict";
document.documentElement.classList.add("script");
// Shows a chart's values at the pointer or, with the arrow keys, at the selected point. The chart's data-x and
// data-labels attributes hold the positions and the texts.
for (const chart of document.querySelectorAll("svg[data-x]")) {
  const at = JSON.parse(chart.dataset.x);
  const labels = JSON.parse(chart.dataset.labels);
  const cursor = chart.querySelector(".cursor");
  const output = chart.parentElement.querySelector("output");
  let selected = -1; // no point
  const show = (next) => {
    selected = next;
    cursor.style.visibility = selected < 0 ? "hidden" : "visible";
    output.textContent = selected < 0 ? "" : labels[selected];
    if (selected >= 0) {
      cursor.setAttribute("x1", at[selected]);
      cursor.setAttribute("x2", at[selected]);
    }
  };
  const nearest = (x) => at.reduce((best, value, index) => (Math.abs(value - x) < Math.abs(at[best] - x) ? index : best), 0);
  chart.setAttribute("tabindex", "0");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show(nearest(((event.clientX - box.left) * chart.viewBox.baseVal.width) / box.width));
  });
  chart.addEventListener("pointerleave", () => show(-1));
  chart.addEventListener("focus", () => selected < 0 && show(0));
  chart.addEventListener("blur", () => show(-1));
  chart.addEventListener("keydown", (event) => {
    const last = at.length - 1;
    const next = { ArrowLeft: Math.max(selected - 1, 0), ArrowRight: Math.min(selected + 1, last), Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      show(next);
    }
  });
}
