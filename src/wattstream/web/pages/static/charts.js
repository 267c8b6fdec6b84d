// Charts in the page's own colours, drawn again when those change.
const drawn = new Map();

const TICKS = [
  { dtickrange: [null, 86399999], value: "%H:%M\n%e %b" },
  { dtickrange: [86400000, null], value: "%e %b\n%Y" },
];

function layout(axes, { span, right } = {}) {
  const isPhone = innerWidth < 640;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
  const found = {
    autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), family: "inherit", size: 13 },
    margin: { l: 64, r: right ?? (isPhone ? 16 : 56), t: 34, b: 44 },
    hovermode: "x unified", dragmode: "zoom",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, showlegend: true,
    xaxis: { ...axis, type: "date", nticks: isPhone ? 4 : 9, tickangle: 0, tickformatstops: TICKS, hoverformat: "%e %b %Y, %H:%M", ...(span ? { range: span } : {}) },
  };
  axes.forEach(({ title, ...of }, place) => {
    found[place ? "yaxis2" : "yaxis"] = {
      ...axis, ...of, title: { text: title, standoff: 8 }, fixedrange: true,
      ...(place ? { overlaying: "y", side: "right", showgrid: false, tickmode: "auto", nticks: 5 } : {}),
    };
  });
  return found;
}

/**
 * Draw a chart; traces name their colour by a variable of the style sheet. `shared` is what charts
 * that stand one above the other have in common: `span`, their first and last time, and the margin
 * at their `right`, px.
 */
export function draw(id, traces, axes, shared) {
  drawn.set(id, [traces, axes, shared]);
  const element = document.getElementById(id);
  const style = getComputedStyle(document.documentElement);
  const coloured = traces.map(({ colour, ...trace }) => {
    const value = style.getPropertyValue(`--${colour}`).trim();
    return { type: "scatter", mode: "lines", line: { color: value, width: 2 }, marker: { color: value }, ...trace };
  });
  const isNew = !element.data;
  if (isNew) element.replaceChildren();
  // The range that was zoomed to stays while new points come.
  const found = layout(axes, shared);
  found.uirevision = element.dataset.revision ?? id;
  const done = Plotly.react(element, coloured, found, { displayModeBar: false, responsive: true });
  if (isNew) element.on("plotly_relayout", () => showReset(id));
  return done;
}

/** Offer the whole of a chart while a part is shown. */
function showReset(id) {
  const button = document.querySelector(`[data-reset="${id}"]`);
  if (button) button.hidden = document.getElementById(id).layout.xaxis.autorange !== false;
}

/** Say something in a chart's place. */
export function say(id, text) {
  const element = document.getElementById(id);
  if (element.data) Plotly.purge(element);
  drawn.delete(id);
  const said = document.createElement("p");
  said.className = "quiet";
  said.textContent = text;
  element.replaceChildren(said);
}

document.addEventListener("theme", () => {
  for (const [id, [traces, axes, shared]] of drawn) draw(id, traces, axes, shared);
});
for (const button of document.querySelectorAll("[data-reset]")) {
  button.addEventListener("click", () => {
    const element = document.getElementById(button.dataset.reset);
    if (element.data) Plotly.relayout(element, { "xaxis.autorange": true });
  });
}
