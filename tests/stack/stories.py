"""The scenarios of tests/stack/scenarios: faults of services, and the expected alerts, metrics in Prometheus, and traces."""

import json
import signal
import socket
import threading

import services
from programs import LONG, get, tell_group, until

# Half a minute is enough on an idle machine.
ALERT_COMES = 150
LAYERS = {"drain", "cancel", "close", "flush"}


def alert(name, severity, **labels):
    return {"alertname": name, "severity": severity} | labels


VANISHED = alert("HeadcountVanished", "critical")
UNCLEAN = alert("HeadcountUncleanExit", "critical")
NOT_SCRAPED = alert("HeadcountTargetDown", "warning")
# Fires five minutes after the last scrape of any instance of a service.
NOBODY_SCRAPED = alert("HeadcountTargetDown", "critical")


def fits(labels, expected):
    return all(labels.get(key) == value for key, value in expected.items())


def said(labels):
    rest = {key: value for key, value in labels.items() if key not in ("job", "instance", "cause", "alertname", "severity")}
    return f"{labels['alertname']} {labels['severity']}" + "".join(f" {key}={value}" for key, value in sorted(rest.items()))


class Checks:
    """Prints a line per check, and counts the results."""

    def __init__(self):
        self.passed, self.failed, self.skipped, self.lock = 0, 0, 0, threading.Lock()

    def say(self, word, claim, text=""):
        with self.lock:
            print(f"{word:4} {claim}" + (f": {text}" if text else ""), flush=True)

    def count(self, passed=0, failed=0, skipped=0):
        with self.lock:
            self.passed, self.failed, self.skipped = self.passed + passed, self.failed + failed, self.skipped + skipped

    def check(self, claim, ask):
        """Returns the result of the check; None if it failed."""
        try:
            found = ask()
        except Exception as error:  # any error fails only this check
            self.count(failed=1)
            self.say("FAIL", claim, str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}")
            return None
        self.count(passed=1)
        self.say("ok", claim, found if isinstance(found, str) else "")
        return found

    def skip(self, claim, why):
        self.count(skipped=1)
        self.say("skip", claim, why)


class Story:
    """One scenario: the services that it started, and the exact set of alerts that each must have at the end."""

    def __init__(self, name, checks, stack, headcount, example):
        self.name, self.checks, self.stack, self.headcount, self.example = name, checks, stack, headcount, example
        self.expected, self.silenced, self.last_words = [], [], []

    def run(self, job, **more):
        return services.run(self.stack, self.headcount, job, **more)

    def embedded(self, job, trouble, **more):
        return services.embedded(self.stack, self.example, job, trouble, **more)

    def check(self, claim, ask):
        return self.checks.check(f"{self.name}: {claim}", ask)

    def expect(self, service, *alerts, silenced=(), may=()):
        """Sets the alerts of a service at the end: those that reach the sink, those that are silenced, and no others."""
        self.expected.append((service, list(alerts), list(may)))
        self.silenced += [(service, name) for name in silenced]

    def stops(self, service, code, outcome, by=services.Service.stop):
        """Checks the exit code, and that the report is available when the service is gone."""
        self.check(f"exit code {code}", lambda: same(by(service), code))
        self.check("the report's metrics are in Prometheus, scraped and pushed", lambda: numbers(service, outcome, ("", "headcount")))
        self.check("the trace of the shutdown is found by its id, with its layers", lambda: shutdown_trace(service))

    def comes(self, service, expected):
        """Checks that an alert reaches the sink during the scenario."""
        def ask():
            until(lambda: any(fits(labels, expected) for labels in service.alerts()), f"{said(expected)} of {service.job}", ALERT_COMES,
                  lambda: f"arrived: {[said(one) for one in service.alerts()]}")
        self.check(f"{said(expected)} arrives", ask)

    def guilty(self, service, event, name, outcome):
        """Checks that the trace id of an event leads to the span of the task."""
        self.check(f"the trace of {name} is found by its id", lambda: guilty_trace(
            service, lambda: [record["trace"] for record in service.records(event)], name, outcome))


# === queries

def same(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def numbers(service, outcome, ways):
    """Checks that Prometheus has the report of the state folder, although the process is gone."""
    report = service.report()
    same(report["outcome"], outcome)
    want = {("info", report["outcome"], report["reason"]): 1, ("timestamp_seconds",): report["at"],
            ("duration_seconds",): report["took_seconds"]}
    want |= {("layer_duration_seconds", layer): one["took_seconds"] for layer, one in report["layers"].items()}
    want |= {("layer_budget_seconds", layer): one["budget_seconds"] for layer, one in report["layers"].items()}
    want |= {("task_lingering", layer): count for layer, count in report["lingering_tasks"].items()}
    want |= {("thread_lingering", kind): count for kind, count in report["lingering_threads"].items()}
    for way in ways:
        until(lambda: not missing(service, want, way), f"{way or 'scraped'}: all of the report", 60,
              lambda: f"differs: {missing(service, want, way)}")
    return f"{len(want)} of {service.job}"


def missing(service, want, way):
    """Returns the values that differ. A pushed timestamp is the time of the push, which is a little later."""
    sample = f'{{__name__=~"headcount_last_shutdown_.+",job="{service.job}",instance="{service.instance}",telemetry_sdk_name="{way}"}}'
    have = {}
    for labels, value in service.stack.query(f"last_over_time({sample}[15m])"):
        keys = [labels[key] for key in ("outcome", "reason", "layer", "class") if key in labels]
        have[(labels["__name__"].removeprefix("headcount_last_shutdown_"), *keys)] = value
    slack = {"timestamp_seconds": 5}
    return {key: (value, have.get(key)) for key, value in want.items()
            if abs(have.get(key, 1e9) - value) > slack.get(key[0], 1e-6)}


def shutdown_trace(service):
    """Finds the trace of the shutdown by the id in the log record of its end."""
    records = until(lambda: service.records("headcount.shutdown.completed"), "the shutdown is logged", 60)
    number = records[-1]["trace"]

    def whole():
        spans = {span["operationName"]: span for span in service.stack.trace(number)}
        top = spans.get("headcount.shutdown")
        return top and spans if LAYERS <= set(spans) else None

    spans = until(whole, f"trace {number} has the shutdown and its layers", 60)
    top = spans["headcount.shutdown"]["spanID"]
    for layer in LAYERS:
        same([ref["spanID"] for ref in spans[layer]["references"]], [top])
    same(instance_of(spans["headcount.shutdown"]), service.instance)
    return number


def instance_of(span):
    return tag(span["process"], "service.instance.id")


def tag(holder, key):
    return next((one["value"] for one in holder["tags"] if one["key"] == key), None)


def guilty_trace(service, ids, name, outcome):
    def found():
        for number in ids():
            for span in service.stack.trace(number):
                ended = (span["operationName"], tag(span, "headcount.task.outcome"), instance_of(span))
                if ended == (name, outcome, service.instance):
                    return number
        return None

    return until(found, f"a span '{name}' that {outcome}", 60, lambda: f"ids: {ids()}")


# === scenarios

def clean_stop(story):
    one = story.run("clean").start()
    one.is_scraped()
    story.stops(one, 0, "clean")
    story.expect(one, NOT_SCRAPED, NOBODY_SCRAPED)


def lingering_thread(story):
    one = story.embedded("thread", "thread").start()
    one.is_scraped()
    story.stops(one, 3, "lingering")
    story.check("the thread is in the trace of the shutdown", lambda: lingering_in_trace(one))
    lingers = alert("HeadcountLingeringThreads", "critical", **{"class": "tracked"})
    story.comes(one, lingers)
    story.expect(one, lingers, NOT_SCRAPED, NOBODY_SCRAPED, silenced=["HeadcountShutdownLayerOverBudget"])


def lingering_in_trace(one):
    records = until(lambda: one.records("headcount.thread.lingering"), "it is logged", 60)
    spans = until(lambda: one.stack.trace(records[0]["trace"]), "its trace is there", 60)
    assert "headcount.shutdown" in {span["operationName"] for span in spans}, [span["operationName"] for span in spans]
    return records[0]["trace"]


def ignores_draining(story):
    one = story.embedded("ignores", "ignores").start()
    one.is_scraped()
    story.stops(one, 0, "cancelled")
    story.guilty(one, "headcount.task.cancelled", "task http/accept", "cancelled")
    over = alert("HeadcountShutdownLayerOverBudget", "warning", layer="drain")
    story.comes(one, over)
    story.expect(one, over, NOT_SCRAPED, NOBODY_SCRAPED)


def lingering_task(story):
    """A blocking closure that never ends outlives all three layers, and so does its thread."""
    one = story.embedded("blocks", "blocks").start()
    one.is_scraped()
    story.stops(one, 3, "lingering")
    story.guilty(one, "headcount.task.lingering", "task http/export", "lingering")
    tasks, threads = alert("HeadcountLingeringTasks", "critical"), alert("HeadcountLingeringThreads", "critical", **{"class": "blocking"})
    story.comes(one, tasks)
    story.comes(one, threads)
    # If it is evaluated between the first layer and the last, it arrives before the alert that would silence it.
    story.expect(one, tasks, threads, NOT_SCRAPED, NOBODY_SCRAPED, may=[alert("HeadcountShutdownLayerOverBudget", "warning")])


def leak(story):
    """The longest scenario, because its alert looks back six minutes, and nothing is shortened for the test."""
    one = story.embedded("leaks", "leaks").start()
    one.is_scraped()
    if story.stack.query(f'headcount_build_info{{tokio_unstable="false",instance="{one.instance}"}}'):
        one.stop()
        story.expect(one, NOT_SCRAPED, NOBODY_SCRAPED)
        return story.checks.skip(story.name, "the service is built without tokio_unstable")
    story.expect(one, alert("HeadcountUntrackedTasks", "info"), alert("HeadcountTaskLeak", "warning", window="2m"))
    story.check("the spawn site of the leak is logged", lambda: until(lambda: [
        record for record in story.stack.records(one.instance)
        if record["event"] == "headcount.task.untracked_detected" and "service.rs:" in record["spawned"]], "a record", 60) and "")
    return story.last_words.append(lambda: story.stops(one, 0, "cancelled"))


def panic(story):
    one = story.embedded("panics", "panics").start()
    one.is_scraped()
    one.cue()
    panics = alert("HeadcountTaskPanics", "warning", group="jobs", task="parse")
    story.comes(one, panics)
    story.guilty(one, "headcount.task.panicked", "task jobs/parse", "panicked")
    story.stops(one, 0, "clean")
    story.expect(one, panics, NOT_SCRAPED, NOBODY_SCRAPED)


def required_task_fails(story):
    one = story.embedded("required", "required").start()
    one.is_scraped()
    one.cue()
    story.stops(one, 1, "clean", by=services.Service.ends)
    story.guilty(one, "headcount.task.finished", "task consumer", "failed")
    ended = alert("HeadcountRequiredTaskEnded", "critical")
    story.comes(one, ended)
    story.expect(one, ended, NOT_SCRAPED, NOBODY_SCRAPED)


def killed_and_restarted(story):
    one = story.run("restarted").start()
    one.is_scraped()
    story.check("kill -9", lambda: same(one.kill(), -signal.SIGKILL))
    one.start(scraped=False)
    story.comes(one, UNCLEAN)
    story.check("the next run logs it", lambda: until(lambda: [
        record for record in story.stack.records(one.instance)
        if record["event"] == "headcount.process.previous_exit_unclean"], "a record", 60) and "")
    story.check("the verdict is in Prometheus, scraped and pushed", lambda: verdict(one))
    story.stops(one, 0, "clean")
    story.expect(one, UNCLEAN, NOT_SCRAPED, NOBODY_SCRAPED)


def verdict(one):
    for way in ("", "headcount"):
        sample = f'headcount_last_shutdown_info{{outcome="unclean",job="{one.job}",instance="{one.instance}",telemetry_sdk_name="{way}"}}'
        until(lambda: one.one(f"max_over_time({sample}[15m])", 1), f"{way or 'scraped'}: unclean")


def killed_for_good(story):
    one = story.run("killed").start()
    one.is_scraped()
    story.check("kill -9", lambda: same(one.kill(), -signal.SIGKILL))
    story.comes(one, VANISHED)
    story.check("no report of it is in Prometheus", lambda: same(
        story.stack.query(f"last_over_time(headcount_last_shutdown_info{one.own}[15m])"), []))
    story.expect(one, VANISHED, NOBODY_SCRAPED, silenced=["HeadcountTargetDown"])


def crash_loop(story):
    """Each run begins after a scrape, is killed before the next one, and pushes a report about the previous run."""
    one = story.run("loops", tasks="")
    story.stack.scrape(one.job, one.instance)
    restarts = alert("HeadcountRestarts", "warning")
    runs = 0
    until(lambda: last_scrape(one), "the service is a target")
    while runs < 24 and not any(fits(labels, restarts) for labels in one.alerts()):
        before, pushed = last_scrape(one), pushes(one)
        until(lambda: last_scrape(one) != before, "the next scrape", every=0.05)
        one.start(scraped=False)
        if runs:
            until(lambda: pushes(one) != pushed, "the verdict on the previous run is pushed", every=0.05)
        one.kill()
        runs += 1
    story.comes(one, restarts)
    story.comes(one, UNCLEAN)
    scraped = one.one(f"count_over_time(process_start_time_seconds{one.own}[15m])", 1)
    story.checks.say("note", f"{story.name}: {runs} runs", "some were scraped" if scraped else "none was ever scraped")
    # A machine may be too slow to avoid every scrape; then the end of the last run is seen as well.
    story.expect(one, restarts, UNCLEAN, may=[VANISHED, NOT_SCRAPED, NOBODY_SCRAPED] if scraped else [])


def last_scrape(one):
    targets = json.loads(get(f"http://{one.stack.prometheus}/api/v1/targets?state=active"))["data"]["activeTargets"]
    times = [target["lastScrape"] for target in targets if target["labels"]["instance"] == one.instance]
    return times[0] if times and not times[0].startswith("0001") else None


def pushes(one):
    return one.stack.query(f"max_over_time(headcount_last_shutdown_timestamp_seconds{one.own}[15m])")


def collector_down(story):
    """Kills the service's collector while the service is running."""
    otlp, collector = story.stack.start_collector("collector-2")
    one = story.embedded("unheard", "none", otlp=otlp).start()
    one.is_scraped()
    tell_group(collector, signal.SIGKILL)
    collector.wait(LONG)
    story.check("exit code 0", lambda: same(one.stop(), 0))
    story.check("the report's metrics are in Prometheus, scraped", lambda: numbers(one, "clean", ("",)))
    story.check("its report says what was lost", lambda: same(
        {key: one.report()["flush"].get(key) for key in ("logs", "metrics", "traces")},
        {"logs": "failed", "metrics": "failed", "traces": "failed"}))
    signals = ("logs", "metrics", "traces")
    lost = [alert("HeadcountTelemetryExportFailing", "warning", signal=each, result="failed") for each in signals]
    lost += [alert("HeadcountTelemetryDropping", "warning", signal=each, reason="shutdown") for each in signals]
    for each in lost:
        story.comes(one, each)
    story.expect(one, *lost, NOT_SCRAPED, NOBODY_SCRAPED)


def two_replicas(story):
    first, second = (story.run("replicas").start() for _ in range(2))
    first.is_scraped()
    second.is_scraped()
    story.check("kill -9 of one", lambda: same(first.kill(), -signal.SIGKILL))
    story.comes(first, VANISHED)
    # The other replica is up, and therefore the service.
    story.expect(first, VANISHED, silenced=["HeadcountTargetDown"])
    story.expect(second)
    story.last_words.append(lambda: story.stops(second, 0, "clean"))


NEIGHBOURS = """
[tasks.db]
kind = "endpoint"
check = {{ tcp = "{address}" }}
interval = "500ms"
[tasks.flaky]
kind = "process"
command = ["sh", "-c", "exit 1"]
restart = "always"
backoff = {{ initial = "1s", max = "1s" }}
max_restarts = "unlimited"
"""


def neighbours(story):
    """An endpoint goes down, and a child process keeps restarting."""
    with socket.create_server(("127.0.0.1", 0)) as db:
        address = "{}:{}".format(*db.getsockname())
        one = story.run("neighbours", tasks=NEIGHBOURS.format(address=address)).start()
        until(lambda: one.one(f'headcount_endpoint_up{{endpoint="db",instance="{one.instance}"}}', 1), "db is up")
    down = alert("HeadcountEndpointDown", "warning", endpoint="db", state="down")
    restarts = alert("HeadcountRestarts", "warning", child="flaky")
    story.comes(one, down)
    story.comes(one, restarts)
    story.expect(one, down, restarts)


ALL = {
    "leak": leak, "clean stop": clean_stop, "lingering thread": lingering_thread,
    "lingering task": lingering_task, "ignores draining": ignores_draining,
    "panic": panic, "required task fails": required_task_fails, "kill -9 with restart": killed_and_restarted,
    "kill -9 without": killed_for_good, "crash loop": crash_loop, "collector down": collector_down,
    "two replicas, one killed": two_replicas, "neighbours": neighbours,
}
