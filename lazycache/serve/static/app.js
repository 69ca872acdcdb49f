// What pages do beyond links and forms, which work without it:
//   <input data-filter="sites">       shows the rows of <table id="sites"> that contain the words
//   <div data-load="/unit/near?...">  is replaced by that answer after the page is there
//   <button data-copy>                copies the address of the page
//   <a rel="prev">, <a rel="next">    followed by the keys [ and ]
//   <textarea data-submit>            Ctrl+Enter sends its form; so does ⌘+Enter
// "/" goes to the first [data-filter], [data-submit] or [data-first] of the page, Escape leaves it.
"use strict";

const writing = (element) =>
  element instanceof HTMLElement && element.matches("input, textarea, select");

function filtered(input) {
  const table = document.getElementById(input.dataset.filter);
  const counter = document.getElementById(`${input.dataset.filter}-shown`);
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  if (counter) counter.textContent = words.length ? `${shown} shown` : "";
}

async function load(place) {
  try {
    const answer = await fetch(place.dataset.load, { headers: { Accept: "text/html" } });
    const text = await answer.text();
    // a page of its own (an error, a refusal) is not put into this one: only what it says
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(text, "text/html");
      throw new Error(page.querySelector(".message")?.textContent ?? `${answer.status}`);
    }
    place.innerHTML = text;
  } catch (problem) {
    place.textContent = `This part could not be loaded: ${problem.message}`;
  }
  place.removeAttribute("aria-busy");
}

async function copy(button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copy it from the address bar";
  }
  setTimeout(() => { button.textContent = said; }, 2000);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (event.target.matches?.("[data-submit]")) event.target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (writing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    const first = document.querySelector("[data-filter], [data-submit], [data-first]");
    if (first) {
      event.preventDefault();
      first.focus();
      first.select?.();
    }
  }
  const to = { "[": "prev", "]": "next" }[event.key];
  if (to) document.querySelector(`a[rel="${to}"]`)?.click();
});

for (const input of document.querySelectorAll("[data-filter]")) {
  input.addEventListener("input", () => filtered(input));
  if (input.value) filtered(input); // the browser kept it over a reload
}
for (const place of document.querySelectorAll("[data-load]")) load(place);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
