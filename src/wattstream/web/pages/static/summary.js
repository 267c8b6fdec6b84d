// The numbers of all devices.
import { count, energy, percent, quantity, seconds } from "./format.js";
import { put } from "./live.js";

const shown = {
  devices: count, silent: count, readings: count, openAlerts: count, rejections: count,
  heartbeatsPerSecond: (value) => (value === null ? "measuring …" : quantity(value, "/s")),
  totalAc: energy, totalDc: energy, efficiency: percent,
  lagSeconds: seconds, lagP95Seconds: seconds,
};

export function showSummary(summary) {
  for (const element of document.querySelectorAll("[data-live]")) {
    put(element, shown[element.dataset.live](summary[element.dataset.live]));
  }
}
