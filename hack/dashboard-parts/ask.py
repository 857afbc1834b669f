"""Asks Prometheus ($PROMETHEUS) everything that the dashboard and the alerts ask, and fails if nothing comes back.

On stdout: the dashboard with the answers, for draw.py.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import queries

URL = os.environ["PROMETHEUS"] + "/api/v1/"
END = time.time()
VARIABLES = {"cluster": ".*", "namespace": ".*", "source": ".*", "__rate_interval": "10s"}

wrong = []


def ask(what, **parameters):
    url = URL + what + "?" + urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from None


def instant(expression):
    return ask("query", query=expression, time=END)["result"]


def at_any_time(expression, start):
    return ask("query_range", query=expression, start=start, end=END, step=1)["result"]


def query(where, asked, expression):
    """The answer of one query, or a line in `wrong`."""
    try:
        if answer := asked(expression):
            return answer
        wrong.append(f"{where}: no data for {expression}")
    except ValueError as error:
        wrong.append(f"{where}: Prometheus refuses {expression}: {error}")
    return []


first = instant("min(min_over_time(timestamp(vault_sync_operator_leader)[1h:1s]))")
START = float(first[0]["value"][1])
asked = 0
board = queries.dashboard()
panels = queries.panels(board)
for panel in panels:
    where = f"panel '{panel['title']}'"
    for target in panel["targets"]:
        expression = queries.substitute(target["expr"], VARIABLES)
        asked += 1
        if target["instant"]:
            target["answer"] = query(where, instant, expression)
        else:
            target["answer"] = query(where, lambda text: at_any_time(text, START), expression)
        # A query such as `… or vector(0)` finds something in any case: its parts must too.
        for selector in queries.selectors(expression):
            query(where, lambda text: at_any_time(text, START), selector)

for variable in board["templating"]["list"]:
    if variable["type"] == "query":
        asked += 1
        selector, _, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
        selector = queries.substitute(selector, VARIABLES)
        if not ask(f"label/{label}/values", **{"match[]": selector}):
            wrong.append(f"variable {variable['name']}: no values of {label} in {selector}")

alerts = queries.alerts()
for name, expression in alerts:
    asked += 1
    try:
        instant(expression)
    except ValueError as error:
        wrong.append(f"alert {name}: Prometheus refuses it: {error}")
    # Whether it fires is its own matter; what it compares must be there.
    for selector in queries.selectors(expression):
        query(f"alert {name}", lambda text: at_any_time(text, START), selector)

for line in wrong:
    print(f"error: {line}", file=sys.stderr)
if wrong:
    sys.exit(1)
print(f"dashboard: {asked} queries of {len(panels)} panels and {len(alerts)} alerts, each with an answer", file=sys.stderr)
raised = sorted({one["metric"]["alertname"] for one in instant('ALERTS{alertstate=~"pending|firing"}')})
print("dashboard: alerts that this run has set off: " + (", ".join(raised) or "none"), file=sys.stderr)
json.dump({"start": START, "end": END, "board": board}, sys.stdout)
