"""Draws panels as a plain page: SVG and tables, in the layout of the dashboard."""

import html
import math
import re
import time
from dataclasses import dataclass, field

WIDTH, CELL, GAP = 1560, 30, 8
PALETTE = ["#2f6fb5", "#d9722b", "#3a9b5c", "#b8475f", "#7a5fb0", "#1f9aa3", "#b58a1b", "#6b7785", "#c05ba5", "#5c8f2a", "#8a5a3c", "#3f53a8"]
COLOURS = {"green": "#2f9e5a", "red": "#d0364a", "orange": "#e07b1f", "yellow": "#d4a514", "blue": "#3577c9", "purple": "#8150bd", "text": "#1d2733"}
STYLE = """
body { margin: 0; background: #eef1f4; color: #1d2733; font: 13px/1.35 Inter, "DejaVu Sans", sans-serif; }
header { padding: 16px 20px 4px; } h1 { font-size: 20px; margin: 0; } header p { margin: 3px 0 0; color: #5b6875; }
main { position: relative; margin: 8px 20px 20px; }
.row { position: absolute; font-weight: 600; font-size: 14px; color: #35424f; line-height: 30px; border-bottom: 1px solid #cbd3da; }
.panel { position: absolute; background: #fff; border: 1px solid #dde3e8; border-radius: 6px; overflow: hidden; box-sizing: border-box; }
.panel h2 { font-size: 12.5px; font-weight: 600; margin: 0; padding: 7px 10px 0; height: 19px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.body { padding: 2px 10px 6px; position: absolute; inset: 27px 0 0 0; overflow: hidden; }
.none { color: #8b97a3; display: flex; align-items: center; justify-content: center; height: 90%; text-align: center; }
.stats { display: flex; height: 100%; align-items: center; justify-content: space-around; }
.stats div { text-align: center; } .stats b { font-size: 34px; font-weight: 600; display: block; line-height: 1.15; } .stats .word b { font-size: 20px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; } th { text-align: left; color: #5b6875; font-weight: 600; border-bottom: 1px solid #dde3e8; }
th, td { padding: 4px 8px; white-space: nowrap; } td { border-bottom: 1px solid #f0f3f5; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.chip { color: #fff; border-radius: 4px; padding: 1px 7px; }
.legend { font-size: 11px; color: #44515e; display: flex; flex-wrap: wrap; gap: 1px 12px; max-height: 32px; overflow: hidden; }
.legend i { display: inline-block; width: 10px; height: 3px; border-radius: 2px; margin: 0 5px 3px 0; }
.bar { display: grid; grid-template-columns: minmax(60px, 42%) 1fr 58px; gap: 8px; align-items: center; margin: 5px 0; font-size: 12px; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .track { background: #edf0f3; border-radius: 3px; height: 14px; } .fill { height: 14px; border-radius: 3px; }
svg text { font-size: 10.5px; fill: #6a7682; }
"""


@dataclass
class Answer:
    """The answer to one target of a panel: labels and values of each series, and exemplars."""

    target: dict
    series: list
    exemplars: list = field(default_factory=list)


def legend(pattern, labels):
    """Substitutes the labels in a legend pattern; without a pattern, returns the labels."""
    if pattern == "__auto" or not pattern:
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), pattern)


# === numbers

def scaled(value, units, base):
    place = 0
    while abs(value) >= base and place < len(units) - 1:
        value, place = value / base, place + 1
    return f"{plain(value)}{units[place]}"


def plain(value, decimals=None):
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def duration(value):
    if abs(value) < 1e-3:
        return f"{plain(value * 1e6)} µs" if value else "0 s"
    if abs(value) < 1:
        return f"{plain(value * 1e3)} ms"
    if abs(value) < 100:
        return f"{plain(value)} s"
    return f"{plain(value / 60)} min" if value < 7200 else f"{plain(value / 3600)} h"


def number(value, config):
    """Formats a value with its unit."""
    unit, decimals = config.get("unit", "short"), config.get("decimals")
    if math.isnan(value):
        return "–"
    if unit == "s":
        return duration(value)
    if unit == "bytes":
        return scaled(value, [" B", " KiB", " MiB", " GiB"], 1024)
    if unit == "percentunit":
        return f"{plain(value * 100, decimals if decimals is not None else 0 if value > 0.1 else None)} %"
    if unit == "dateTimeAsIso":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(value / 1000))
    suffix = "/s" if unit == "ops" else ""
    return f"{plain(value, decimals) if abs(value) < 10000 else scaled(value, ['', ' k', ' M'], 1000)}{suffix}"


def colour(name):
    return COLOURS.get(name, name)


def by_threshold(value, config):
    found = "text"
    for step in config.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            found = step["color"]
    return colour(found)


def mapped(value, config):
    """Returns text and colour of a value with a mapping."""
    key = plain(value) if isinstance(value, float) else str(value)
    for mapping in config.get("mappings", []):
        if key in mapping["options"]:
            found = mapping["options"][key]
            return found["text"], colour(found["color"])
    return None


def overridden(panel, name):
    """Returns the settings of a field: the panel's defaults with the field's overrides."""
    config = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            config.update({each["id"]: each["value"] for each in override["properties"]})
    return config


# === panels

def stat(panel, answers, _box):
    config = panel["fieldConfig"]["defaults"]
    cells = []
    for answer in answers:
        for labels, values in answer.series[:4]:
            name = "" if len(answers) == 1 else legend(answer.target["legendFormat"], labels)
            shade = by_threshold(values[-1][1], config)
            cells.append(f'<div><b style="color:{shade}">{number(values[-1][1], config)}</b>{html.escape(name)}</div>')
    if not cells and "noValue" in config:
        cells = [f'<div class="word"><b>{config["noValue"]}</b></div>']
    return f'<div class="stats">{"".join(cells)}</div>' if cells else nothing()


def nothing(text="no data in this time range"):
    return f'<div class="none">{html.escape(text)}</div>'


def merged(answers):
    """Returns the rows of all targets; rows with equal values in their common labels are merged."""
    rows = []
    for answer in answers:
        value = "Value" if len(answers) == 1 else f"Value #{answer.target['refId']}"
        for labels, values in answer.series:
            row = {name: text for name, text in labels.items() if name != "__name__"}
            same = [old for old in rows if all(old.get(name, text) == text for name, text in row.items()) and value not in old]
            for old in same if same else [{}]:
                old.update(row | {value: values[-1][1]})
                if not same:
                    rows.append(old)
    return rows


def table(panel, answers, _box):
    organize = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    rows = merged(answers)
    if not rows:
        return nothing()
    names = {name for row in rows for name in row if not organize["excludeByName"].get(name)}
    names = sorted(names, key=lambda name: organize["indexByName"].get(name, 99))
    shown = {name: organize["renameByName"].get(name, name) for name in names}
    for key in panel["options"]["sortBy"]:
        own = next((name for name in names if shown[name] == key["displayName"]), names[0])
        rows.sort(key=lambda row, own=own: row.get(own, -1 if "Value" in own else ""), reverse=key["desc"])
    head = "".join(f'<th class="{"number" if name.startswith("Value") else ""}">{html.escape(shown[name])}</th>' for name in names)
    lines = ["".join(cell(overridden(panel, shown[name]), row.get(name)) for name in names) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def cell(config, value):
    if value is None:
        return "<td></td>"
    named = mapped(value, config)
    kind = config.get("custom.cellOptions", {}).get("type", "auto")
    is_number = isinstance(value, float)
    text, shade = named or (number(value, config) if is_number else str(value), None)
    if kind == "color-background" and shade:
        return f'<td class="{"number" if is_number else ""}"><span class="chip" style="background:{shade}">{html.escape(text)}</span></td>'
    if kind == "color-text" and not shade and is_number:
        shade = by_threshold(value, config)
    style = f' style="color:{shade};font-weight:600"' if kind == "color-text" and shade else ""
    return f'<td class="{"number" if is_number else ""}"{style}>{html.escape(text)}</td>'


def bargauge(panel, answers, _box):
    config = panel["fieldConfig"]["defaults"]
    found = [(legend(answer.target["legendFormat"], labels), values[-1][1]) for answer in answers for labels, values in answer.series]
    if not found:
        return nothing()
    most = config.get("max") or max(max(value for _, value in found), 1)
    bars = []
    for name, value in sorted(found):
        share = min(max(value / most, 0), 1) * 100
        shade = by_threshold(value, config)
        shade = PALETTE[0] if shade == COLOURS["text"] else shade
        bars.append(f'<div class="bar"><span>{html.escape(name)}</span><div class="track"><div class="fill" style="width:{share:.1f}%;background:{shade}"></div></div><span class="number">{number(value, config)}</span></div>')
    return "".join(bars)


def timeline(panel, answers, box):
    width, height, (start, end, step) = box
    config = panel["fieldConfig"]["defaults"]
    rows = [(legend(answer.target["legendFormat"], labels), values) for answer in answers for labels, values in answer.series]
    if not rows:
        return nothing()
    rows.sort()
    left, bottom = 150, 18
    each = min((height - bottom - 22) / len(rows), 34)
    across = (width - left) / (end - start)
    parts = []
    for place, (name, values) in enumerate(rows):
        y = place * each + 2
        parts.append(f'<text x="{left - 8}" y="{y + each / 2 + 3}" text-anchor="end">{html.escape(name if len(name) < 26 else name[:24] + "…")}</text>')
        parts += [f'<rect x="{left + (a - start) * across:.1f}" y="{y:.1f}" width="{max((b - a) * across, 2):.1f}" height="{each - 4:.1f}" fill="{(mapped(value, config) or ("", PALETTE[0]))[1]}"/>' for a, b, value in stretches(values, step)]
    parts += time_axis(left, width, rows and len(rows) * each + 14, (start, end))
    seen = {mapped(value, config) for _, values in rows for _, value in values} - {None}
    names = "".join(f'<span><i style="background:{shade}"></i>{html.escape(text)}</span>' for text, shade in sorted(seen))
    return f'<svg width="{width}" height="{height - 20}">{"".join(parts)}</svg><div class="legend">{names}</div>'


def stretches(values, step):
    """Returns stretches of equal values: start, end and value. A gap ends a stretch."""
    found = []
    for at, value in values:
        if found and found[-1][2] == value and at - found[-1][1] <= step * 0.5:
            found[-1][1] = at + step
        else:
            found.append([at, at + step, value])
    return found


def time_axis(left, width, y, span):
    start, end = span
    every = next(each for each in (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 86400) if (end - start) / each <= max(width / 80, 3))
    at = math.ceil(start / every) * every
    form = "%H:%M:%S" if every < 60 else "%H:%M"
    ticks = []
    while at < end - every * 0.2:
        x = left + (at - start) / (end - start) * (width - left)
        ticks.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{time.strftime(form, time.gmtime(at))}</text>')
        at += every
    return ticks


def stacked(rows):
    """Stacks each series on top of the previous ones."""
    below, found = {}, []
    for name, values in rows:
        base = [below.get(at, 0.0) for at, _ in values]
        top = [(at, bottom + (value if value == value else 0.0)) for (at, value), bottom in zip(values, base)]
        below.update(top)
        found.append((name, top, base))
    return found


def timeseries(panel, answers, box, marks):
    width, height, (start, end, step) = box
    config = panel["fieldConfig"]["defaults"]
    rows = [(legend(answer.target["legendFormat"], labels), values) for answer in answers for labels, values in answer.series]
    rows = sorted((row for row in rows if any(value == value for _, value in row[1])), key=lambda row: row[0])
    if not rows:
        return nothing()
    is_stacked = config["custom"]["stacking"]["mode"] == "normal"
    drawn = stacked(rows) if is_stacked else [(name, values, None) for name, values in rows]
    dots = [dot for answer in answers for dot in answer.exemplars]
    left, foot, top = 56, height - 50, 6
    scale = Scale(config, *extent(drawn, dots, config), foot, top)
    across = lambda at: left + (at - start) / (end - start) * (width - left)
    place = lambda at, value: (across(at), scale.y(value))
    parts = grid(config, left, width, scale) + time_axis(left, width, foot + 15, (start, end))
    parts += [mark(across(at), (top, foot), shade, text) for at, shade, text in marks]
    names = []
    for index, (name, values, base) in enumerate(drawn):
        own = overridden(panel, name).get("color", {}).get("fixedColor")
        shade = colour(own) if own else PALETTE[index % len(PALETTE)]
        parts += line(values, base, shade, place, config, step)
        names.append(f'<span><i style="background:{shade}"></i>{html.escape(name)}</span>')
    parts += [diamond(*place(at, value), trace) for at, value, trace in thinned(dots, place)]
    return f'<svg width="{width}" height="{height - 32}">{"".join(parts)}</svg><div class="legend">{"".join(names)}</div>'


def extent(drawn, dots, config):
    """Returns the smallest value above 0, and the largest plus a margin."""
    values = [value for _, points, _ in drawn for _, value in points if math.isfinite(value)] + [dot[1] for dot in dots]
    above = [value for value in values if value > 0]
    return min(above, default=1), config.get("max") or max(values, default=0) * 1.08 or 1


def mark(x, reach, shade, text):
    top, foot = reach
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{foot}" stroke="{colour(shade)}" stroke-dasharray="3 3" opacity=".55"><title>{html.escape(text)}</title></line>'


def thinned(dots, place):
    """Returns at most one exemplar for each 24 by 24 points."""
    return {tuple(round(each / 24) for each in place(at, value)): (at, value, trace) for at, value, trace in dots}.values()


def diamond(x, y, trace):
    return f'<path d="M{x:.1f} {y - 3:.1f}l3 3l-3 3l-3-3z" fill="#fff" stroke="#44515e"><title>trace {html.escape(trace)}</title></path>'


def even_steps(highest, unit):
    """Returns about four round values up to the highest."""
    rough = highest / 4
    base = 1.0
    if unit == "bytes":
        base = 1024 ** math.floor(math.log(max(rough, 1), 1024))
    elif unit == "s" and rough >= 25:
        base = 60 if rough < 1800 else 3600
    size = base * 10 ** math.floor(math.log10(rough / base))
    each = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    return [each * place for place in range(int(highest / each) + 1)]


class Scale:
    """Returns the position of a value between the bottom and the top of a chart."""

    def __init__(self, config, lowest, highest, foot, top):
        self.is_log = config["custom"]["scaleDistribution"]["type"] == "log"
        self.low = 10 ** math.floor(math.log10(lowest)) if self.is_log else 0.0
        self.high, self.foot, self.top = highest, foot, top
        if self.is_log:
            powers = range(round(math.log10(self.low)), math.floor(math.log10(highest)) + 1)
            self.ticks = [10.0**power for power in powers]
        else:
            self.ticks = even_steps(highest, config["unit"])

    def y(self, value):
        if self.is_log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return self.foot - share * (self.foot - self.top)


def grid(config, left, width, scale):
    """Returns grid lines with their values, and the threshold."""
    parts = []
    for value in scale.ticks:
        y = scale.y(value)
        text = number(value, config | {"decimals": None})
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e6eaee"/><text x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for step in config["thresholds"]["steps"]:
        if config["custom"]["thresholdsStyle"]["mode"] == "dashed" and step["value"] and step["value"] <= scale.high:
            y = scale.y(step["value"])
            parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour(step["color"])}" stroke-dasharray="6 4"/>')
    return parts


def line(values, base, shade, place, config, step):
    """Returns a line for each stretch without a gap, and its area."""
    parts, stretch = [], []
    bases = base or [0.0] * len(values)
    for (at, value), below in [*zip(values, bases), ((math.inf, math.nan), 0.0)]:
        if stretch and (value != value or at - stretch[-1][0] > step * 1.5):
            parts += strokes(stretch, shade, place, config)
            stretch = []
        if value == value:
            stretch.append((at, value, below))
    return parts


def strokes(stretch, shade, place, config):
    upper = [place(at, value) for at, value, _ in stretch]
    if config["custom"]["lineInterpolation"] == "stepAfter":
        upper = [point for a, b in zip(upper, [*upper[1:], upper[-1]]) for point in (a, (b[0], a[1]))]
    if len(stretch) <= 2:
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{shade}"/>' for x, y in upper]
    lower = [place(at, below) for at, _, below in reversed(stretch)]
    points = lambda pairs: " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
    area = f'<polygon points="{points(upper + lower)}" fill="{shade}" opacity="{config["custom"]["fillOpacity"] / 100}"/>'
    return [area, f'<polyline points="{points(upper)}" fill="none" stroke="{shade}" stroke-width="1.4"/>']


# === the page

DRAWN = {"stat": stat, "table": table, "bargauge": bargauge, "state-timeline": timeline}


def panel_html(panel, answers, marks, span):
    at = panel["gridPos"]
    cell_width = (WIDTH + GAP) / 24
    left, top = at["x"] * cell_width, at["y"] * (CELL + GAP)
    width, height = at["w"] * cell_width - GAP, at["h"] * (CELL + GAP) - GAP
    place = f"left:{left:.0f}px;top:{top:.0f}px;width:{width:.0f}px"
    if panel["type"] == "row":
        return f'<div class="row" style="{place};height:30px">{html.escape(panel["title"])}</div>'
    box = (int(width) - 24, int(height) - 36, span)
    if panel["type"] == "timeseries":
        body = timeseries(panel, answers, box, marks)
    else:
        body = DRAWN[panel["type"]](panel, answers, box)
    return f'<section class="panel" style="{place};height:{height:.0f}px" title="{html.escape(panel["description"])}"><h2>{html.escape(panel["title"])}</h2><div class="body">{body}</div></section>'


def compact(panels):
    """Returns the drawn panels, moved up into the space of the others."""
    drawn = [panel for panel in panels if panel["type"] == "row" or panel["datasource"]["type"] == "prometheus"]
    # Removes rows without panels.
    drawn = [panel for panel, after in zip(drawn, [*drawn[1:], {"type": "row"}]) if panel["type"] != "row" or after["type"] != "row"]
    used = sorted({y for panel in drawn for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])})
    moved = {y: place for place, y in enumerate(used)}
    return [panel | {"gridPos": panel["gridPos"] | {"y": moved[panel["gridPos"]["y"]]}} for panel in drawn]


def draw(dashboard, answers, marks, span):
    """Returns the page of a dashboard."""
    whole = [panel for panel in dashboard["panels"] if not panel.get("collapsed")]
    panels = compact(whole)
    left_out = [f"“{panel['title']}”" for panel in whole if panel["type"] != "row" and panel["id"] not in {one["id"] for one in panels}]
    note = f" Not drawn, because they need a trace store: {', '.join(left_out)}." if left_out else ""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * (CELL + GAP)
    when = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) for at in span[:2]]
    body = "".join(panel_html(panel, answers[panel["id"]], marks, span) for panel in panels)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(dashboard["title"])}</title><style>{STYLE}</style></head>
<body style="width:{WIDTH + 40}px"><header><h1>{html.escape(dashboard["title"])}</h1>
<p>{html.escape(dashboard["description"])} {when[0]} to {when[1][11:]} UTC. Drawn by tests/stack/render.py from Prometheus' answers.{note}</p></header>
<main style="height:{bottom}px">{body}</main></body></html>
"""
