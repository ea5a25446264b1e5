// Charts of the last minutes, as SVG.

const MINUTES = 5;
// Points by the name of a chart: [time in seconds, value, second value].
const series = new Map();

function addPoint(name, at, value, second) {
  const points = series.get(name) || [];
  if (value === null || value === undefined || Number.isNaN(value)) return;
  if (points.length > 0 && points[points.length - 1][0] >= at) return;
  points.push([at, value, second]);
  while (points[0][0] < at - 60 * MINUTES) points.shift();
  series.set(name, points);
}

// Draws a chart into an element, whose last child it becomes. `show` writes a value, for the description.
function draw(into, name, title, show, least) {
  let chart = into.querySelector("svg");
  if (!chart) {
    chart = find("chart").content.firstElementChild.cloneNode(true);
    into.append(chart);
  }
  const points = series.get(name) || [];
  const [area, line, second] = chart.children;
  if (points.length < 2) {
    for (const path of chart.children) path.setAttribute("d", "");
    chart.setAttribute("aria-label", title + ": no data yet");
    return;
  }
  const values = points.flatMap(([, value, other]) => (other === undefined ? [value] : [value, other]));
  const most = Math.max(least, ...values);
  const end = points[points.length - 1][0];
  const from = Math.min(points[0][0], end - 30);
  const x = (at) => (100 * (at - from)) / (end - from);
  const y = (value) => 23 - (22 * value) / most;
  const path = (place) => points.filter((point) => point[place] !== undefined).map((point) => x(point[0]).toFixed(2) + " " + y(point[place]).toFixed(2)).join(" L");
  const first = path(1);
  line.setAttribute("d", "M" + first);
  area.setAttribute("d", "M" + x(points[0][0]).toFixed(2) + " 24 L" + first + " L100 24 Z");
  const other = path(2);
  second.setAttribute("d", other ? "M" + other : "");
  const now = points[points.length - 1][1];
  const least_ = points.reduce((sum, point) => Math.min(sum, point[1]), Infinity);
  const most_ = points.reduce((sum, point) => Math.max(sum, point[1]), 0);
  const label = title + " in the last " + wholeSeconds(end - points[0][0]) + ": now " + show(now) + ", least " + show(least_) + ", most " + show(most_);
  chart.setAttribute("aria-label", label);
}
