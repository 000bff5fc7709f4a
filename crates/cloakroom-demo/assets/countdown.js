// Ticks the countdowns that the server rendered. Without this script they show the time as of loading.
"use strict";

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

// The two largest units, as the server words them.
function words(seconds) {
  const from = UNITS.findIndex(([, size]) => seconds >= size);
  if (from < 0) return "0 seconds";
  const parts = [];
  for (const [name, size] of UNITS.slice(from, from + 2)) {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    if (count > 0) parts.push(`${count} ${name}${count === 1 ? "" : "s"}`);
  }
  return parts.join(" ");
}

// The time left comes from the server, so that a wrong clock here changes nothing.
const loaded = performance.now();

function tick() {
  const passed = (performance.now() - loaded) / 1000;
  for (const countdown of document.querySelectorAll("time[data-seconds]")) {
    const left = Math.floor(Number(countdown.dataset.seconds) - passed);
    countdown.textContent = words(Math.max(left, 0));
  }
}

tick();
setInterval(tick, 1000);
