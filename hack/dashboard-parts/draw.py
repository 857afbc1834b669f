"""Draws the dashboard with its answers (stdin, from ask.py) as SVG (stdout), as Grafana would lay it out.

It knows those types of panel that the dashboard uses, and of their options those that it sets.
"""

import json
import math
import sys
from html import escape

COLUMN, ROW, GAP, MARGIN = 60, 30, 8, 12
COLOURS = {"red": "#e0424d", "green": "#2f9e57", "orange": "#e68a1c", "blue": "#3f78d8", "transparent": "none"}
PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffb357", "#c4a2ff"]
INK, DIM, BACK, PAGE, LINE = "#e3e5ea", "#9aa0ab", "#1b1e25", "#111318", "#343942"

out = []


def text(x, y, words, size=12, colour=INK, anchor="start", weight="normal"):
    out.append(f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">{escape(str(words))}</text>')


def box(x, y, width, height, colour, radius=3):
    out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" rx="{radius}" fill="{colour}"/>')


def fitted(words, width, size=12):
    """What fits into a width, with a mark where it was cut."""
    room = max(int(width / (size * 0.58)), 1)
    return words if len(words) <= room else words[: room - 1] + "…"


def number(value, unit, decimals=None):
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f}%"
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
    if decimals is None:
        decimals = 0 if value == int(value) else 1 if value >= 1 else 2
    return f"{value:.{decimals}f}" + {"cpm": "/min"}.get(unit, "")


def threshold(value, thresholds):
    colour = "transparent"
    for step in thresholds["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return COLOURS[colour]


def mapped(value, mappings):
    """(text, colour) of a value that has them."""
    for mapping in mappings:
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], COLOURS[found["color"]]
    return None


def name_of(target, labels):
    words = target["legendFormat"]
    for label, value in labels.items():
        words = words.replace("{{" + label + "}}", value)
    return words


def draw_stat(panel, x, y, width, height):
    field = panel["fieldConfig"]["defaults"]
    answer = panel["targets"][0]["answer"]
    value = float(answer[0]["value"][1]) if answer else math.nan
    box(x, y, width, height, threshold(value, field["thresholds"]))
    text(x + width / 2, y + height / 2 + 14, number(value, field["unit"], field.get("decimals")), 40, "#fff", "middle", "bold")


def draw_table(panel, x, y, width, height):
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    properties = {o["matcher"]["options"]: {p["id"]: p["value"] for p in o["properties"]} for o in panel["fieldConfig"]["overrides"]}
    order = sorted(organize["indexByName"], key=organize["indexByName"].get)
    rows = {}
    for target in panel["targets"]:
        for one in target["answer"]:
            labels = tuple(one["metric"].get(name, "") for name in order if not name.startswith("Value #"))
            rows.setdefault(labels, {})[f"Value #{target['refId']}"] = float(one["value"][1])
    by = panel["options"]["sortBy"][0]["displayName"]
    key = next(k for k, v in organize["renameByName"].items() if v == by)
    lines = sorted(rows.items(), key=lambda item: (-item[1].get(key, 0), item[0]))
    names = [name for name in order if not name.startswith("Value #")]
    # A long name needs room, a number does not.
    share = [3 if name == "job" else 2 if name == "resource" else 1.2 for name in names] + [1.2] * (len(order) - len(names))
    unit = width / sum(share)
    edges = [x + unit * sum(share[:i]) for i in range(len(share) + 1)]
    for i, column in enumerate(order):
        text(edges[i] + 6, y + 15, fitted(organize["renameByName"].get(column, column), edges[i + 1] - edges[i] - 6, 11), 11, "#8ab8ff", weight="bold")
    for n, (labels, values) in enumerate(lines[: int((height - 24) / 24)]):
        top = y + 24 + n * 24
        out.append(f'<path d="M{x:.0f} {top:.0f}h{width:.0f}" stroke="{LINE}"/>')
        for i, column in enumerate(order):
            left, room = edges[i], edges[i + 1] - edges[i]
            if i < len(names):
                text(left + 6, top + 16, fitted(labels[i], room - 8))
                continue
            if column not in values:
                continue
            how, value = properties[organize["renameByName"][column]], values[column]
            words, colour = number(value, how["unit"], how.get("decimals")), "none"
            if "thresholds" in how:
                colour = threshold(value, how["thresholds"])
            if found := mapped(value, how.get("mappings", [])):
                words, colour = found
            if colour != "none":
                box(left + 1, top + 1, room - 3, 22, colour, 2)
            text(left + 8, top + 16, words, 12, "#fff" if colour != "none" else INK)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def time_axis(x, y, width, height, bottom):
    length = END - START
    step = next(s for s in (10, 15, 30, 60, 120, 300, 600) if length / s <= 8 or s == 600)
    for second in range(0, int(length) + 1, step):
        at = x + width * second / length
        out.append(f'<path d="M{at:.0f} {y:.0f}v{height:.0f}" stroke="{LINE}" stroke-width=".6"/>')
        text(at, bottom, clock(second), 10, DIM, "middle")


def draw_states(panel, x, y, width, height):
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    target = panel["targets"][0]
    answer = sorted(target["answer"], key=lambda one: name_of(target, one["metric"]))
    high = min((height - 42) / max(len(answer), 1), 56)
    left = x + 6
    room = width - 12
    for n, one in enumerate(answer):
        top = y + 2 + n * high
        text(left, top + 12, fitted(name_of(target, one["metric"]), room), 12)
        spans = []
        for at, value in one["values"]:
            if spans and spans[-1][2] == value and at - spans[-1][1] < 2:
                spans[-1][1] = at
            else:
                spans.append([at, at, value])
        for begin, end, value in spans:
            _, colour = mapped(float(value), mappings) or ("", DIM)
            box(left + room * (begin - START) / (END - START), top + 18, room * (min(end + 1, END) - begin) / (END - START), high - 26, colour, 1)
    time_axis(left, y, room, height - 42, y + height - 26)
    at = left
    for mapping in mappings:
        for state in mapping["options"].values():
            box(at, y + height - 15, 10, 10, COLOURS[state["color"]], 2)
            text(at + 15, y + height - 6, state["text"], 11, DIM)
            at += 25 + 8 * len(state["text"])


def nice(top):
    """The end of an axis, and its steps."""
    if top <= 0:
        return 1, 1
    power = 10 ** math.floor(math.log10(top))
    step = next(power * s / 5 for s in (1, 2, 5, 10) if top <= power * s)
    return step * math.ceil(top / step - 1e-9), step


def draw_series(panel, x, y, width, height):
    field = panel["fieldConfig"]["defaults"]
    fixed = {o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"] for o in panel["fieldConfig"]["overrides"]}
    lines = []
    for target in panel["targets"]:
        for one in target["answer"]:
            points = [(at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf")]
            if points:
                lines.append((name_of(target, one["metric"]), points))
    lines.sort()
    # The legend takes as many lines as it needs, up to three.
    rows, at = [[]], 0
    for n, (name, _) in enumerate(lines):
        words = fitted(name, width - 30, 11)
        length = 26 + 6.4 * len(words)
        if at + length > width and rows[-1]:
            rows.append([])
            at = 0
        rows[-1].append((at, words, n))
        at += length
    rows = rows[:3]
    deep = 15 * len(rows) + 20
    left, high, room = x + 58, height - deep - 8, width - 66
    mega = 2**20 if field["unit"] == "bytes" else 1
    top, step = nice(max((v for _, points in lines for _, v in points), default=0) / mega)
    for tick in range(int(top / step + 1.5)):
        level = y + 8 + high - high * tick * step / top
        out.append(f'<path d="M{left:.0f} {level:.0f}h{room:.0f}" stroke="{LINE}"/>')
        words = number(tick * step * mega, field["unit"]) if field["unit"] != "cpm" else number(tick * step, "none")
        text(left - 5, level + 4, words, 10, DIM, "end")
    time_axis(left, y + 8, room, high, y + 8 + high + 13)
    for n, (name, points) in enumerate(lines):
        colour = COLOURS[fixed[name]] if name in fixed else PALETTE[n % len(PALETTE)]
        path, last = "", None
        for at, value in points:
            across = left + room * (at - START) / (END - START)
            down = y + 8 + high - high * value / mega / top
            path += f"{'M' if last is None or at - last > 2 else 'L'}{across:.0f} {down:.0f}"
            last = at
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>')
    for r, row in enumerate(rows):
        for at, words, n in row:
            colour = COLOURS[fixed[lines[n][0]]] if lines[n][0] in fixed else PALETTE[n % len(PALETTE)]
            base = y + height - 15 * (len(rows) - 1 - r) - 4
            box(x + at + 6, base - 6, 12, 3, colour, 1)
            text(x + at + 22, base, words, 11, DIM)


DRAW = {"stat": draw_stat, "table": draw_table, "state-timeline": draw_states, "timeseries": draw_series}

answers = json.load(sys.stdin)
START, END, board = answers["start"], answers["end"], answers["board"]
bottom = 0
for panel in board["panels"]:
    place = panel["gridPos"]
    x, y = MARGIN + place["x"] * COLUMN, 50 + place["y"] * ROW
    width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
    bottom = max(bottom, y + height)
    if panel["type"] == "row":
        text(x, y + 20, "▾ " + panel["title"], 15, INK, weight="bold")
        continue
    box(x, y, width, height, BACK)
    text(x + 8, y + 17, fitted(panel["title"], width - 12, 12), 12, INK, weight="bold")
    inner = (x, y + 24, width, height - 24) if panel["type"] == "stat" else (x + 4, y + 26, width - 8, height - 30)
    DRAW[panel["type"]](panel, *inner)

size = f'{24 * COLUMN + 2 * MARGIN - GAP} {bottom + MARGIN:.0f}'
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="DejaVu Sans, Verdana, sans-serif">')
print(f'<rect width="100%" height="100%" fill="{PAGE}"/>')
print(f'<text x="{MARGIN}" y="32" font-size="20" font-weight="bold" fill="{INK}">{escape(board["title"])}</text>')
print(f'<text x="{24 * COLUMN}" y="32" font-size="12" fill="{DIM}" text-anchor="end">a run of hack/dashboard, {END - START:.0f} seconds long; rates over 10 s</text>')
print("\n".join(out))
print("</svg>")
