"""The real programs of the local stack on loopback, with the repository's own files: Jaeger instead of Tempo, the
collector, Prometheus, Alertmanager and the sink for its messages. For tests/stack/scenarios.

All ports are free ones, all files are in one temporary folder, and all started programs end with it.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "target/tools/bin"
# Far longer than anything here takes, even on a busy machine.
LONG = 120


# Each port is used once: services get theirs before they listen.
GIVEN, GIVING = set(), threading.Lock()
# Below the range of ephemeral ports (ip_local_port_range), which other tests use all the time.
PORTS = range(20000, 32000)


def is_free(port):
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(number):
    with GIVING:
        ports = []
        while len(ports) < number:
            port = random.choice(PORTS)
            if port not in GIVEN and is_free(port):
                GIVEN.add(port)
                ports.append(port)
    return ports


def free_address():
    return f"127.0.0.1:{free_ports(1)[0]}"


def get(url, patience=10):
    with urllib.request.urlopen(url, timeout=patience) as answer:
        return answer.read().decode()


def answers(url):
    try:
        get(url, 2)
    except OSError:
        return False
    return True


def until(what, claim, patience=LONG, or_else=lambda: "", every=0.25):
    """Polls until the result is true, and returns it; fails after the time limit."""
    end = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < end, f"not within {patience:g} s: {claim} {or_else()}".strip()
        time.sleep(every)
    return found


def put_in(path, pairs):
    """Returns a file of the repository with other addresses; fails if an old address is missing."""
    text = (ROOT / path).read_text()
    for old, new in pairs:
        assert old in text, f"{path} does not contain {old!r}"
        text = text.replace(old, new)
    return text


class Programs:
    """The started programs, each in its own process group. Leaving the context ends them all."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.running, self.lock, self.leaving = {}, threading.Lock(), False

    def start(self, name, command, stdin=subprocess.DEVNULL, **env):
        """Starts a program; appends its standard output to NAME.out and its standard error to NAME.log."""
        with self.lock, (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.log").open("ab") as log:
            assert not self.leaving, "the programs are being stopped"
            program = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=os.environ | env, stdin=stdin,
                                       stdout=out, stderr=log, start_new_session=True)
            self.running[program.pid] = program
        return program

    def log(self, name, last=800):
        return (self.folder / f"{name}.log").read_text(errors="replace")[-last:]

    def forget(self, program):
        """Ends the remaining processes of a program that has ended."""
        with self.lock:
            self.running.pop(program.pid, None)
        tell_group(program, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.lock:
            self.leaving, left = True, list(self.running.values())
        for program in left:
            tell_group(program, signal.SIGTERM)
        end = time.monotonic() + 10
        for program in left:
            try:
                program.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            tell_group(program, signal.SIGKILL)
            program.wait()


def tell_group(program, number):
    """Signals the group of a program. The id belongs to a session started here, and is not reused while it has members."""
    try:
        os.killpg(program.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


class Stack:
    """All programs of the stack, ready for queries."""

    def __init__(self, programs):
        self.programs, self.folder = programs, programs.folder
        self.targets, self.lock = [], threading.Lock()
        self.otlp, self.collectors = None, []
        self.prometheus, self.alertmanager, self.sink = free_address(), free_address(), free_address()
        self.jaeger_otlp, self.jaeger = free_address(), free_address()

    def start(self):
        self.start_jaeger()
        self.start_sink()
        self.start_alertmanager()
        self.collector_metrics, _ = self.start_collector("collector")
        self.start_prometheus()
        return self

    def ready(self, name, url):
        until(lambda: answers(url), f"{name} is ready", or_else=lambda: self.programs.log(name))

    def start_jaeger(self):
        health = free_address()
        self.programs.start("jaeger", [BIN / "jaeger", "--config=tests/stack/jaeger.yaml"], JAEGER_GRPC=self.jaeger_otlp,
                            JAEGER_QUERY=self.jaeger, JAEGER_QUERY_GRPC=free_address(), JAEGER_HEALTH=health)
        self.ready("jaeger", f"http://{health}/status")

    def start_sink(self):
        self.programs.start("sink", ["python3", "-u", "deploy/local/alert-sink.py", "--json", "--listen", self.sink])
        self.ready("sink", f"http://{self.sink}/")

    def start_alertmanager(self):
        """Starts Alertmanager, with shorter waits: 30 s and 5 min for info alerts, 30 s for more alerts of a group."""
        config = self.folder / "alertmanager.yml"
        config.write_text(put_in("deploy/local/alertmanager.yml", [
            ("http://alert-sink:9095/", f"http://{self.sink}/"),
            ("group_wait: 30s", "group_wait: 5s"), ("group_interval: 5m", "group_interval: 10s"),
            ("group_interval: 30s", "group_interval: 10s"),
        ]))
        self.programs.start("alertmanager", [BIN / "alertmanager", f"--config.file={config}", "--cluster.listen-address=",
                                             f"--storage.path={self.folder}/alerts", f"--web.listen-address={self.alertmanager}"])
        self.ready("alertmanager", f"http://{self.alertmanager}/-/ready")

    def start_collector(self, name):
        """Starts a collector with the repository's file; it prints each log record, from which trace ids are read."""
        http, health, metrics = free_address(), free_address(), free_address()
        host, port = metrics.split(":")
        program = self.programs.start(
            name, [BIN / "otelcol", "--config=otel-config.yaml"], COLLECTOR_GRPC=free_address(), COLLECTOR_HTTP=http,
            COLLECTOR_HEALTH=health, COLLECTOR_METRICS_HOST=host, COLLECTOR_METRICS_PORT=port, LOGS_DETAIL="detailed",
            TRACES_ENDPOINT=self.jaeger_otlp, METRICS_ENDPOINT=f"http://{self.prometheus}/api/v1/otlp")
        self.ready(name, f"http://{health}/")
        self.otlp = self.otlp or f"http://{http}"
        self.collectors.append(name)
        return (metrics, program) if name == "collector" else (f"http://{http}", program)

    def start_prometheus(self):
        """Starts Prometheus with the repository's intervals; targets are in a file, so that each appears at its start."""
        config, targets = self.folder / "prometheus.yml", self.folder / "targets.json"
        targets.write_text("[]")
        config.write_text(put_in("deploy/local/prometheus.yml", [
            ("/etc/prometheus/rules/*.yml", f"{ROOT}/dashboards/rules/*.yml"),
            ("alertmanager:9093", self.alertmanager), ("collector:8888", self.collector_metrics),
            ("localhost:9090", self.prometheus),
            ("static_configs:\n      - targets: [headcount:9464]",
             f"file_sd_configs:\n      - files: [{targets}]\n        refresh_interval: 2s"),
        ]))
        self.programs.start("prometheus", [
            BIN / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={self.prometheus}", "--web.enable-otlp-receiver", "--enable-feature=exemplar-storage"])
        self.ready("prometheus", f"http://{self.prometheus}/-/ready")

    def scrape(self, job, instance):
        """Adds a target, with the name of its service as the job."""
        with self.lock:
            self.targets.append({"targets": [instance], "labels": {"job": job}})
            whole = self.folder / "targets.json.new"
            whole.write_text(json.dumps(self.targets))
            whole.replace(self.folder / "targets.json")

    # === questions

    def query(self, expr):
        """Returns the labels and value of each series of an instant query."""
        url = f"http://{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        return [(row["metric"], float(row["value"][1])) for row in json.loads(get(url))["data"]["result"]]

    def alerts(self):
        """Returns all alerts in Alertmanager, including those that it does not send."""
        return json.loads(get(f"http://{self.alertmanager}/api/v2/alerts"))

    def sunk(self):
        """Returns the labels of each alert that has reached the sink."""
        seen = {}
        # The last line may be incomplete.
        for line in (self.folder / "sink.out").read_text().split("\n")[:-1]:
            for alert in json.loads(line)["alerts"]:
                if alert["status"] == "firing":
                    seen[json.dumps(alert["labels"], sort_keys=True)] = alert["labels"]
        return list(seen.values())

    def trace(self, number):
        """Returns the spans of a trace; none if it does not exist yet."""
        try:
            data = json.loads(get(f"http://{self.jaeger}/api/traces/{number}"))["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [span | {"process": trace["processes"][span["processID"]]} for trace in data for span in trace["spans"]]

    def records(self, instance):
        """Returns the log records of an instance that have reached a collector."""
        texts = [(self.folder / f"{name}.log").read_text(errors="replace") for name in self.collectors]
        parts = [part for text in texts for part in text.split("\tResourceLog #")[1:]]
        own = f"service.instance.id: Str({instance})\n"
        return [record for part in parts if own in part for record in records(part)]


LINE = re.compile(r"\s*(->\s)?([\w. ]+): (?:Str|Int|Double|Bool)?\(?(.*?)\)?$")


def records(text):
    """Yields the log records of a resource from the output of the exporter `debug`: event, body, trace and attributes."""
    record = None
    for line in text.splitlines():
        if line.startswith("LogRecord #"):
            record = {"event": "", "body": "", "trace": ""}
        elif record is not None and (found := LINE.match(line)):
            _, key, value = found.groups()
            record[{"EventName": "event", "Body": "body", "Trace ID": "trace"}.get(key, key)] = value
            # The last line of each record.
            if key == "Flags":
                yield record
                record = None
