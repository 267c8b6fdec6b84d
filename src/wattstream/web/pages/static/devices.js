// The list: searched and sorted by the engine, replaced in place, its rows live.
import { showTimes } from "./format.js";
import { listen } from "./live.js";
import { showSilence, showState } from "./states.js";

const form = document.getElementById("filters");
const rows = () => [...document.querySelectorAll("#list tr[data-id]")];
let newest = 0;

const again = listen(() => {
  const asked = new URLSearchParams({ type: document.getElementById("list").dataset.type });
  const ids = rows().map((row) => row.dataset.id);
  for (const id of ids) asked.append("id", id);
  if (ids.length === 0) asked.set("event", "summary");
  return `/v1/stream?${asked}`;
}, {
  live: (status) => {
    const id = status.vehicleId ?? status.meterId;
    const row = rows().find((each) => each.dataset.id === id);
    if (row) showState(row, status);
  },
});
setInterval(() => rows().forEach(showSilence), 1000);

async function go(path, isTyped = false) {
  const number = ++newest;
  const answer = await fetch(path, { headers: { Accept: "text/html" } });
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  const list = found.getElementById("list");
  if (number !== newest) return;
  if (!list) { location.assign(path); return; }
  document.getElementById("list").replaceWith(document.importNode(list, true));
  for (const name of ["sort", "order"]) form.elements[name].value = found.forms[0].elements[name].value;
  showTimes();
  history[isTyped ? "replaceState" : "pushState"](null, "", path);
  again();
}
const asked = () => `/devices?${new URLSearchParams(new FormData(form))}`;

let timer = null;
form.elements.q.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => go(asked(), true), 250);
});
form.addEventListener("submit", (event) => { event.preventDefault(); go(asked()); });
form.addEventListener("change", (event) => { if (event.target !== form.elements.q) go(asked()); });
document.addEventListener("click", (event) => {
  const link = event.target.closest("#list thead a, .pager a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const label = link.textContent.replace(/[▲▼\s]+$/, "");
  go(link.getAttribute("href")).then(() => {
    const same = [...document.querySelectorAll("#list thead a, .pager a")]
      .find((each) => each.textContent.startsWith(label));
    same?.focus();
  });
});
addEventListener("popstate", () => location.reload());
