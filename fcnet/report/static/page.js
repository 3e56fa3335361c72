"use strict";
// The values under the pointer, or at the place that the arrow keys choose; each chart says them itself.
for (const chart of document.querySelectorAll("svg[data-x]")) {
  const at = JSON.parse(chart.dataset.x);
  const labels = JSON.parse(chart.dataset.labels);
  const cursor = chart.querySelector(".cursor");
  const output = chart.parentElement.querySelector("output");
  let place = -1;
  const show = (next) => {
    place = next;
    cursor.style.visibility = place < 0 ? "hidden" : "visible";
    output.textContent = place < 0 ? "" : labels[place];
    if (place >= 0) {
      cursor.setAttribute("x1", at[place]);
      cursor.setAttribute("x2", at[place]);
    }
  };
  const nearest = (x) => at.reduce((best, value, index) => (Math.abs(value - x) < Math.abs(at[best] - x) ? index : best), 0);
  chart.setAttribute("tabindex", "0");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show(nearest(((event.clientX - box.left) * chart.viewBox.baseVal.width) / box.width));
  });
  chart.addEventListener("pointerleave", () => show(-1));
  chart.addEventListener("focus", () => place < 0 && show(0));
  chart.addEventListener("blur", () => show(-1));
  chart.addEventListener("keydown", (event) => {
    const last = at.length - 1;
    const next = { ArrowLeft: Math.max(place - 1, 0), ArrowRight: Math.min(place + 1, last), Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      show(next);
    }
  });
}
