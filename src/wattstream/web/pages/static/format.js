// Numbers with units, and times in the browser's zone.
const NONE = "–";
const fixed = (value, digits) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function quantity(value, unit, digits = 1) {
  return value === null || value === undefined ? NONE : `${fixed(value, digits)} ${unit}`;
}
export const count = (value) => value.toLocaleString("en");
export const percent = (fraction) => quantity(fraction === null ? null : 100 * fraction, "%");

/** One unit for all of some energies, kWh. */
export function energyUnit(values) {
  const most = Math.max(0, ...values.map((value) => Math.abs(value ?? 0)));
  return [["GWh", 1e6], ["MWh", 1e3]].find(([, size]) => most >= size) ?? ["kWh", 1];
}
export function energy(kwh) {
  const [unit, size] = energyUnit([kwh]);
  return quantity(kwh / size, unit, Math.abs(kwh) < 1 && kwh !== 0 ? 3 : 2);
}
export function seconds(value) {
  if (value === null) return NONE;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (Math.abs(value) >= 2 * size) return `${fixed(value / size, 0)} ${unit}`;
  }
  return `${fixed(value, 1)} s`;
}
function ago(value) {
  return value < 120 ? `${fixed(Math.max(0, value), 0)} s ago` : `${seconds(value)} ago`;
}

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Show times of a part of the page in the browser's zone. */
export function showTimes(root = document) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const text = "ago" in time.dataset ? ago((Date.now() - at) / 1000) : moment.format(at);
    if (time.textContent !== text) time.textContent = text;
    if ("ago" in time.dataset) time.title = moment.format(at);
  }
}
export function timeElement(at, isAgo) {
  const time = document.createElement("time");
  time.dateTime = at;
  if (isAgo) time.dataset.ago = "";
  return time;
}

/** A time as Plotly takes it: local, without a zone. */
export function local(text) {
  const at = new Date(text);
  return new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, -1);
}

document.getElementById("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
showTimes();
setInterval(() => showTimes(), 1000);
