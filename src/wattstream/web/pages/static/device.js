import { acknowledge } from "./acknowledge.js";
import { draw, say } from "./charts.js";
import { energyUnit, local } from "./format.js";
import { listen } from "./live.js";
import { showSilence, showState } from "./states.js";

const device = document.getElementById("device");
const { type, id } = device.dataset;
const form = document.getElementById("history-form");
const note = document.getElementById("history-note");
const ROWS = 10000;
let newest = 0;

listen(`/v1/stream?${new URLSearchParams({ type, id })}`, {
  live: (status) => showState(device, status),
});
setInterval(() => showSilence(device), 1000);

/** Bars as wide as their buckets; the first and last of a range may be cut. */
function bars(rows) {
  const length = rows.map((row) => new Date(row.end) - new Date(row.start));
  return { type: "bar", width: length.map((ms) => 0.85 * ms), offset: 0 };
}

async function showHistory() {
  const number = ++newest;
  const { range, resolution } = Object.fromEntries(new FormData(form));
  const start = new Date(Date.now() - range * 3600000).toISOString();
  const asked = new URLSearchParams({ id, start, resolution, limit: ROWS });
  const answer = await fetch(`/v1/history/${type}?${asked}`);
  const body = await answer.json();
  if (number !== newest) return;
  if (!answer.ok) { say("history-energy", body.error.message); return; }
  const rows = body.items;
  note.textContent = body.next ? `Only the first ${ROWS.toLocaleString("en")} readings of the range are shown.` : "";
  if (rows.length === 0) {
    say("history-energy", "No reading in this range.");
    say("history-fields", "");
    return;
  }
  const isRaw = resolution === "raw";
  const isPhone = innerWidth < 640;
  const shared = { span: [local(start), local(new Date())], right: type === "meter" ? undefined : isPhone ? 52 : 64 };
  const x = rows.map((row) => local(row.timestamp ?? row.start));
  const kwh = rows.map((row) => row.energyKwh);
  const [unit, size] = energyUnit(kwh);
  for (const name of ["history-energy", "history-fields"]) {
    document.getElementById(name).dataset.revision = `${range} ${resolution}`;
  }
  draw("history-energy", [{
    x, y: kwh.map((value) => value / size), name: type === "meter" ? "AC" : "DC",
    colour: type === "meter" ? "ac" : "dc", hovertemplate: `%{y:,.3f} ${unit}`,
    ...(isRaw ? {} : bars(rows)),
  }], [{ title: unit, rangemode: "tozero" }], shared);
  const field = (raw, mean, name, of, colour, digits) => ({
    x, y: rows.map((row) => row[isRaw ? raw : mean]), name, colour,
    hovertemplate: `%{y:.${digits}f} ${of}`,
    ...(rows.length === 1 ? { mode: "markers" } : {}),
  });
  if (type === "meter") {
    draw("history-fields", [field("voltage", "avgVoltage", "Voltage", "V", "third", 1)], [{ title: "V" }], shared);
  } else {
    draw("history-fields", [
      field("soc", "avgSoc", "Charge", "%", "ac", 1),
      { ...field("batteryTemp", "avgBatteryTemp", "Battery", "°C", "third", 1), yaxis: "y2" },
    ], [{ title: "%", range: [0, 103] }, { title: "°C" }], shared);
  }
}
const often = () => showHistory().catch(() => {});
form.addEventListener("change", often);
often();
setInterval(() => { if (!document.hidden) often(); }, 60000);
acknowledge();
