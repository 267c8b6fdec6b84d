// The live state of a device in the cells of a row, or of its page.
import { energy, quantity, showTimes, timeElement } from "./format.js";
import { put } from "./live.js";

const fields = {
  kwhConsumedAc: energy,
  kwhDeliveredDc: energy,
  voltage: (value) => quantity(value, "V"),
  soc: (value) => quantity(value, "%"),
  batteryTemp: (value) => quantity(value, "°C"),
  charging: (value) => (value ? "charging" : "not charging"),
};

function cell(root, name) {
  return root.querySelector(`[data-cell="${name}"]`);
}
function putTime(element, at, isAgo) {
  if (!element || element.querySelector("time")?.dateTime === at) return;
  element.replaceChildren(timeElement(at, isAgo));
  showTimes(element);
}
export function showState(root, status) {
  for (const [name, text] of Object.entries(fields)) {
    if (name in status) put(cell(root, name), text(status[name]));
  }
  putTime(cell(root, "heard"), status.receivedAt, true);
  putTime(cell(root, "measured"), status.timestamp, false);
  showSilence(root);
}

/** Say whether a device is silent by now. */
export function showSilence(root) {
  const at = cell(root, "heard")?.querySelector("time")?.dateTime;
  const limit = Number(root.dataset.silent) * Number(root.dataset.heartbeat);
  if (!at) return;
  const isSilent = limit > 0 && (Date.now() - new Date(at)) / 1000 >= limit;
  const state = cell(root, "state").firstElementChild;
  const text = isSilent ? "silent" : "reporting";
  if (state.textContent === text) return;
  state.textContent = text;
  state.className = `state ${isSilent ? "bad" : "good"}`;
}
