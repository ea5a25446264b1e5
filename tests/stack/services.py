"""Services under test, each with one job and one instance for its scrapes and pushes."""

import json
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from programs import LONG, Stack, answers, free_address, tell_group, until


@dataclass
class Service:
    """A service that can be started, controlled, and restarted: `job` is its name, `instance` its scrape address."""

    stack: Stack
    job: str
    command: list
    otlp: str | None = None
    instance: str = field(default_factory=free_address)
    state: Path = None
    program: subprocess.Popen = None
    ended: float = 0.0

    def __post_init__(self):
        self.name = f"{self.job}-{self.instance.split(':')[1]}"
        self.state = self.stack.folder / f"{self.name}.state"

    # === control

    def start(self, scraped=True):
        """Starts the service and waits until it answers. Prometheus learns of it afterwards, so that no scrape fails."""
        self.program = self.stack.programs.start(
            self.name, self.command, stdin=subprocess.PIPE, OTEL_SERVICE_NAME=self.job, OTEL_BSP_SCHEDULE_DELAY="500",
            OTEL_EXPORTER_OTLP_ENDPOINT=self.otlp or self.stack.otlp, OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip",
            OTEL_RESOURCE_ATTRIBUTES=f"service.instance.id={self.instance}")
        until(lambda: self.lives() and answers(f"http://{self.instance}/livez"), f"{self.name} answers",
              or_else=lambda: self.stack.programs.log(self.name), every=0.1)
        if scraped:
            self.stack.scrape(self.job, self.instance)
        return self

    def lives(self):
        assert self.program.poll() is None, f"{self.name} has ended: {self.stack.programs.log(self.name)}"
        return True

    def is_scraped(self, times=2):
        """Waits for enough scrapes that the service knows when the next one is due."""
        until(lambda: self.one(f"count_over_time(process_start_time_seconds{self.own}[15m])", at_least=times),
              f"{self.name} is scraped {times} times")

    def cue(self):
        self.program.stdin.write(b"go\n")
        self.program.stdin.flush()

    def stop(self):
        """Stops the service with SIGTERM, and returns the exit code."""
        self.program.send_signal(signal.SIGTERM)
        return self.ends()

    def ends(self):
        code = self.program.wait(LONG)
        self.ended = time.time()
        self.stack.programs.forget(self.program)
        return code

    def kill(self):
        self.program.kill()
        return self.ends()

    # === queries

    @property
    def own(self):
        return f'{{job="{self.job}",instance="{self.instance}"}}'

    def one(self, expr, at_least):
        return any(value >= at_least for _, value in self.stack.query(expr))

    def report(self):
        """Returns the report that the last run left in the state folder."""
        return json.loads((self.state / "report.json").read_text())["shutdown"]

    def records(self, event):
        return [one for one in self.stack.records(self.instance) if one["event"] == event and one["trace"]]

    def alerts(self):
        """Returns the labels of the service's alerts that have reached the sink."""
        return [one for one in self.stack.sunk() if (one.get("job"), one.get("instance")) == (self.job, self.instance)]

    def silenced(self):
        """Returns the names of the service's alerts that Alertmanager silences."""
        return {alert["labels"]["alertname"] for alert in self.stack.alerts() if alert["status"]["state"] == "suppressed"
                and (alert["labels"].get("job"), alert["labels"].get("instance")) == (self.job, self.instance)}


def embedded(stack, program, job, trouble, **more):
    """Returns a service that embeds the library (the example `stack_service`)."""
    service = Service(stack, job, [], **more)
    service.command = [program, trouble, job, service.instance, service.state]
    return service


CONFIG = """
[service]
name = "{job}"
[admin]
listen = "{instance}"
[state]
folder = "{state}"
[shutdown]
scrape_hold = "20s"
deadline = "40s"
[tasks.resources]
kind = "resources"
[tasks.prometheus]
kind = "endpoint"
check = {{ http = "http://{prometheus}/-/ready" }}
interval = "1s"
{tasks}
"""
CHILD = """
[tasks.worker]
kind = "process"
command = ["sleep", "100000"]
restart = "on-failure"
"""


def run(stack, headcount, job, tasks=CHILD, **more):
    """Returns a `headcount run` with a resource monitor, an endpoint, and the given tasks, by default a child process."""
    service = Service(stack, job, [], **more)
    config = stack.folder / f"{service.name}.toml"
    config.write_text(CONFIG.format(job=job, instance=service.instance, state=service.state, tasks=tasks, prometheus=stack.prometheus))
    service.command = [headcount, "run", config]
    return service
