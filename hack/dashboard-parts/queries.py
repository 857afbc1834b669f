"""What the dashboard and the alerts ask of Prometheus, read from their files."""

import json
import re

PREFIX = "vault_sync_operator_"
DASHBOARD = "charts/vault-sync-operator/files/dashboard.json"
ALERTS = "charts/vault-sync-operator/files/alerts.yaml"

# A metric of ours, or of the process, with its matchers if it has any.
SELECTOR = re.compile(r"\b(?:vault_sync_operator_|process_)\w+(?:\{[^}]*\})?")
# The parts of a family that it has in the text of a scrape, and not in the tables of names.
SUFFIXES = ("_bucket", "_sum", "_count")


def dashboard():
    with open(DASHBOARD, encoding="utf-8") as file:
        return json.load(file)


def panels(board):
    """All panels with queries, also those of folded rows, in the order of the page."""
    found = []
    for panel in board["panels"]:
        found += [panel] if panel["type"] != "row" else panel.get("panels", [])
    return found


def alerts():
    """(name, expression) of each alert. The file is ours: this reads no more YAML than it uses."""
    found, name, lines = [], None, None
    with open(ALERTS, encoding="utf-8") as file:
        for line in file:
            if match := re.match(r"      - alert: (\w+)", line):
                name = match[1]
            elif match := re.match(r"        expr: (.*)", line):
                lines = []
                found.append((name, lines))
                if match[1] != "|":
                    lines.append(match[1])
            elif lines is not None and line.startswith("          "):
                lines.append(line.strip())
            else:
                lines = None
    return [(name, "\n".join(lines)) for name, lines in found]


def selectors(expression):
    return sorted(set(SELECTOR.findall(expression)))


def metrics(expression):
    """The names of families that an expression uses, as the README has them."""
    names = {selector.partition("{")[0] for selector in selectors(expression)}
    return {next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name) for name in names}


def substitute(expression, variables):
    """What Grafana does before it asks. A variable that is not known stays, and Prometheus refuses it."""
    for name, value in variables.items():
        expression = re.sub(rf"\$\{{?{re.escape(name)}\b\}}?", lambda _: value, expression)
    return expression
