#!/usr/bin/env python3
"""Evaluates all queries of a dashboard with a Prometheus, and draws the answers.

    tests/stack/render.py PROMETHEUS DASHBOARD.json [--html PAGE] [--range 30m] [--rate 1m] [--var NAME=VALUE]

Substitutes the variables, and evaluates every expression of every panel, annotation and variable with `query` and
`query_range`. An error is a failure. So is an answer without a number, unless `may-be-empty.json` in this folder has a reason.
Queries to other data sources (traces, logs) are counted as skipped.

The page is drawn from the definitions of the panels, without Grafana: it shows the values, but not Grafana's styling.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import page

HERE = Path(__file__).parent
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ALL = ".+"


def seconds(text):
    """Converts "90s", "30m" or "6h" to seconds."""
    return int(text[:-1]) * UNITS[text[-1]]


class Prometheus:
    """Sends queries for the time range of the page."""

    def __init__(self, url, span, variables):
        self.url = url.rstrip("/")
        self.end = time.time()
        self.start = self.end - span
        self.step = max(1, span // 400)
        self.variables = variables

    def put_in(self, text):
        """Substitutes the variables in a text as Grafana does."""
        for name, value in sorted(self.variables.items(), key=lambda pair: -len(pair[0])):
            text = text.replace("${" + name + "}", value).replace("$" + name, value)
        return text

    def get(self, path, **parameters):
        """Returns the data of an answer; raises `ValueError` with the message of Prometheus."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error

    def instant(self, expr):
        """Returns the value of each series at the end of the range."""
        data = self.get("query", query=self.put_in(expr), time=self.end)
        if data["resultType"] == "scalar":
            return [({}, [(self.end, float(data["result"][1]))])]
        return [(row["metric"], [(row["value"][0], float(row["value"][1]))]) for row in data["result"]]

    def range(self, expr):
        """Returns the values of each series from the start to the end of the range."""
        data = self.get("query_range", query=self.put_in(expr), start=self.start, end=self.end, step=self.step)
        return [(row["metric"], [(at, float(value)) for at, value in row["values"]]) for row in data["result"]]

    def exemplars(self, expr):
        """Returns the exemplars of the series in an expression: time, value, trace."""
        data = self.get("query_exemplars", query=self.put_in(expr), start=self.start, end=self.end)
        found = [exemplar for series in data for exemplar in series["exemplars"]]
        return [(one["timestamp"], float(one["value"]), one["labels"].get("trace_id", "")) for one in found]

    def label_values(self, query):
        """Returns the result of Grafana's `label_values(selector, label)`."""
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query, re.S).groups()
        selector = self.put_in(selector)
        return self.get(f"label/{label}/values", **{"match[]": selector, "start": self.start, "end": self.end})


def has_number(series):
    """Returns whether any value is a number."""
    return any(value == value for _, values in series for _, value in values)


class Findings:
    """The results of all queries."""

    def __init__(self, uid, excuses):
        self.uid = uid
        self.excuses = {(one["panel"], one.get("target")): one["reason"] for one in excuses if one["dashboard"] == uid}
        self.used = set()
        self.passed, self.failed, self.skipped = 0, [], 0

    def excused(self, title, target):
        for key in ((title, target), (title, None)):
            if key in self.excuses:
                self.used.add(key)
                return True
        return False

    def add(self, title, target, ask):
        """Sends a query, records the result, and returns the series, which are empty after an error."""
        try:
            series = ask()
        except (ValueError, OSError) as error:
            self.failed.append(f"{title} / {target}: {error}")
            return []
        if has_number(series) or self.excused(title, target):
            self.passed += 1
        else:
            self.failed.append(f"{title} / {target}: no data")
        return series

    def finish(self, titles):
        """Adds a failure for each excuse of a panel that does not exist."""
        for title, _ in self.excuses:
            if title not in titles:
                self.failed.append(f"may-be-empty.json: {self.uid} has no '{title}'")


def all_panels(dashboard):
    """Returns rows and panels, including the panels in collapsed rows."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def ask_panel(prometheus, findings, panel):
    """Returns the answers by target. The query type that the panel does not use is only checked for errors."""
    answers = []
    for target in panel.get("targets", []):
        if target["datasource"]["type"] != "prometheus":
            findings.skipped += 1
            continue
        expr = target["expr"]
        ways = [prometheus.range, prometheus.instant]
        own, other = reversed(ways) if target.get("instant") else ways
        series = findings.add(panel["title"], target["refId"], lambda own=own, expr=expr: own(expr))
        try:
            other(expr)
        except (ValueError, OSError) as error:
            findings.failed.append(f"{panel['title']} / {target['refId']}: {error}")
        found = prometheus.exemplars(expr) if target.get("exemplar") else []
        answers.append(page.Answer(target, series, found))
    return answers


def ask_annotations(prometheus, findings, dashboard):
    """Returns time, colour and text of each mark."""
    marks = []
    for annotation in dashboard["annotations"]["list"]:
        title = f"annotation {annotation['name']}"
        series = findings.add(title, "A", lambda expr=annotation["expr"]: prometheus.range(expr))
        for labels, values in series:
            for at in {value / 1000 for _, value in values}:
                marks.append((at, annotation["iconColor"], page.legend(annotation["titleFormat"], labels)))
    return [mark for mark in marks if prometheus.start <= mark[0] <= prometheus.end]


def ask_variables(prometheus, findings, dashboard):
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            values = lambda query=query: [({}, [(0, 0.0)]) for _ in prometheus.label_values(query)]
            findings.add(f"variable {variable['name']}", "A", values)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("prometheus")
    parser.add_argument("dashboard", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--range", default="30m")
    parser.add_argument("--rate", default="1m", help="$__rate_interval: four scrape intervals")
    parser.add_argument("--var", action="append", default=[])
    parser.add_argument("--may-be-empty", type=Path, default=HERE / "may-be-empty.json")
    return parser.parse_args()


def main():
    given = arguments()
    dashboard = json.loads(given.dashboard.read_text())
    variables = {variable["name"]: ALL for variable in dashboard["templating"]["list"]}
    variables |= {"__rate_interval": given.rate, "__range": given.range, "__interval": "15s"}
    variables |= dict(pair.split("=", 1) for pair in given.var)
    prometheus = Prometheus(given.prometheus, seconds(given.range), variables)
    findings = Findings(dashboard["uid"], json.loads(given.may_be_empty.read_text()))
    ask_variables(prometheus, findings, dashboard)
    marks = ask_annotations(prometheus, findings, dashboard)
    answers = {panel["id"]: ask_panel(prometheus, findings, panel) for panel in all_panels(dashboard)}
    titles = {panel["title"] for panel in all_panels(dashboard)}
    findings.finish(titles | {f"annotation {one['name']}" for one in dashboard["annotations"]["list"]})
    if given.html:
        given.html.write_text(page.draw(dashboard, answers, marks, (prometheus.start, prometheus.end, prometheus.step)))
    for line in findings.failed:
        print(f"{given.dashboard.name}: {line}", file=sys.stderr)
    print(f"{findings.passed} passed, {len(findings.failed)} failed, {findings.skipped} skipped")
    return 1 if findings.failed else 0


if __name__ == "__main__":
    sys.exit(main())
