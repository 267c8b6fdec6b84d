import { draw, say } from "./charts.js";
import { energyUnit, local } from "./format.js";
import { listen } from "./live.js";
import { showSummary } from "./summary.js";

async function showDay() {
  const answer = await fetch("/pages/day.json");
  if (!answer.ok) return;
  const day = await answer.json();
  if (day.start.length === 0) {
    for (const id of ["energy", "efficiency"]) say(id, "No quarter-hour is complete yet.");
    return;
  }
  const x = day.start.map(local);
  const [unit, size] = energyUnit([...day.acKwh, ...day.dcKwh]);
  const scaled = (values) => values.map((value) => value / size);
  const hover = `%{y:,.2f} ${unit}`;
  draw("energy", [
    { x, y: scaled(day.acKwh), name: "AC drawn", colour: "ac", hovertemplate: hover },
    { x, y: scaled(day.dcKwh), name: "DC delivered", colour: "dc", hovertemplate: hover },
  ], [{ title: unit, rangemode: "tozero" }]);
  draw("efficiency", [{
    x, y: day.efficiency.map((value) => (value === null ? null : 100 * value)),
    name: "DC ÷ AC", colour: "third", hovertemplate: "%{y:.1f} %",
  }], [{ title: "%", rangemode: "tozero" }]);
}

listen("/v1/stream?event=summary", { summary: showSummary });
const often = () => { if (!document.hidden) showDay().catch(() => {}); };
often();
setInterval(often, 60000);
