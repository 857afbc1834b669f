"""Whether dashboard, alerts, runbook, README and the program know the same metrics and alerts.

usage: lint.py      in the top folder of the repository
"""

import re
import sys

import queries

wrong = []


def compare(what, have, want, where):
    wrong.extend(f"{what} {name}: {where}" for name in sorted(want - have))


def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


board = queries.dashboard()
panels = queries.panels(board)
alerts = queries.alerts()
if len(alerts) != text(queries.ALERTS).count("- alert: "):
    wrong.append(f"{queries.ALERTS}: not every alert can be read; keep to the form of the others")

names = {name for name, _ in alerts}
headings = set(re.findall(r"^### (\w+)$", text("docs/runbook.md"), re.M))
compare("alert", headings, names, "docs/runbook.md has no heading for it")
compare("heading", names, headings, "docs/runbook.md has it, and there is no such alert")

# Those of the program, with their type's suffix, from the table in the README (which ci/readme keeps
# complete) and from the program itself.
section = text("README.md").partition("\n## Metrics\n")[2].partition("\n## ")[0]
documented = {queries.PREFIX + name for name in re.findall(r"^\| `(\w+)` \|", section, re.M)}
documented |= set(re.findall(r"`(process_\w+)`", section))
source = text("src/metrics.rs") + text("src/metrics/process.rs")
asked = [(f"alert {name}", expr) for name, expr in alerts]
for panel in panels:
    asked += [(f"panel '{panel['title']}'", target["expr"]) for target in panel["targets"]]
for variable in board["templating"]["list"]:
    if variable["type"] == "query":
        asked.append((f"variable {variable['name']}", variable["query"]["query"]))
for where, expr in asked:
    for name in sorted(queries.metrics(expr)):
        bare = name.removeprefix(queries.PREFIX).removesuffix("_total")
        if name not in documented:
            wrong.append(f"{where}: the README knows no metric {name}")
        elif f'"{bare}"' not in source:
            wrong.append(f"{where}: src/metrics.rs has no metric {name}")

identities = [panel["id"] for panel in board["panels"]]
if len(set(identities)) != len(identities):
    wrong.append("two panels of the dashboard have one id")
for panel in panels:
    if not panel.get("description"):
        wrong.append(f"panel '{panel['title']}' has no description")
    if panel["datasource"]["uid"] != "${datasource}":
        wrong.append(f"panel '{panel['title']}' is bound to one datasource")

for line in wrong:
    print(f"error: {line}", file=sys.stderr)
if wrong:
    sys.exit(1)
print(f"{len(alerts)} alerts, {len(panels)} panels, {len(asked)} queries", file=sys.stderr)
