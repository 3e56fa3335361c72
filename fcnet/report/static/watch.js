// Loads the page of a run in training again and again: a page that is opened as a file can fetch nothing. The browser keeps
// the place. While the reader reads a value or a table, the page waits.
const STALE_SECONDS = 120;
const note = document.querySelector("[data-watch]");
const seconds = Number(note.dataset.watch);

if (seconds) {
  const text = note.querySelector("span");
  const pause = note.querySelector("input");
  const usual = text.textContent;
  let left = seconds;
  pause.parentElement.hidden = false;
  const isRead = () => document.querySelector("details[open], svg[data-x]:hover, svg[data-x]:focus");
  const age = () => Date.now() / 1000 - Number(note.dataset.written);
  const show = () => {
    const minutes = Math.round(age() / 60);
    if (age() > STALE_SECONDS) text.textContent = `Not written again for ${minutes} minutes: fcnet watch may have ended.`;
    else if (pause.checked) text.textContent = "The page stays as it is.";
    else if (isRead()) text.textContent = "The page waits while you read a chart or a table.";
    else text.textContent = usual;
  };
  show();
  setInterval(() => {
    left -= 1;
    show();
    if (left <= 0 && !pause.checked && !isRead()) location.reload();
  }, 1000);
  pause.addEventListener("change", show);
}
