"""Measures the time from the end of a process to its alert in Alertmanager, at the scrape interval of the repository."""

import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import services
from programs import until

# The claimed maximum in seconds, on a machine without other load. Alerts in time are counted and printed; only an alert that
# never arrives is a failure.
WITHIN = 30
# All measured services, and the alerts that each may have. The scenarios check these at the end.
MEASURED = []
# Seconds over which the ends are spread, to cover all moments between two scrapes and two evaluations.
SPREAD = 11


class Watch:
    """Records when each alert was first active in Alertmanager."""

    def __init__(self, stack):
        self.stack, self.seen, self.over = stack, {}, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.wait(0.2):
            try:
                alerts = self.stack.alerts()
            except OSError:
                continue
            for alert in alerts:
                key = (alert["labels"]["alertname"], alert["labels"].get("instance"))
                self.seen.setdefault(key, time.time())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def killed(one):
    one.kill()
    return one.ended


def killed_and_started(one):
    one.kill()
    ended = one.ended
    one.start(scraped=False)
    return ended


def stopped(one):
    """Returns the time at which the report was final; the process then waits for the final scrape."""
    one.program.send_signal(signal.SIGTERM)
    one.ends()
    return one.report()["at"]


def run(stack, headcount, _):
    return services.run(stack, headcount, "figures")


def lingers(stack, _, example):
    return services.embedded(stack, example, "figures", "thread")


# The kinds of ends, by the awaited alert; in the end, all services are gone.
KINDS = {
    "HeadcountVanished": (killed, run),
    "HeadcountUncleanExit": (killed_and_started, run),
    "HeadcountLingeringThreads": (stopped, lingers),
}


def one_after_the_other(instances, end):
    """Ends each instance at its own moment, and returns the times of the ends."""
    def at(number):
        time.sleep(SPREAD * number / len(instances))
        return end(instances[number])

    with ThreadPoolExecutor(len(instances)) as pool:
        return list(pool.map(at, range(len(instances))))


def measure(checks, stack, headcount, example, runs):
    for name, (end, make) in KINDS.items():
        instances = [make(stack, headcount, example) for _ in range(runs)]
        # A rule that is evaluated between the end of the last layer and the report sees the layer over its budget, before the
        # alert that would silence it.
        allowed = {name, "HeadcountTargetDown", "HeadcountVanished" if make is run else "HeadcountShutdownLayerOverBudget"}
        MEASURED.extend((one, allowed) for one in instances)
        checks.check(f"figure: {name} arrives after the end, {runs} of {runs}",
                     lambda n=name, e=end, i=instances: time_of(stack, n, e, i))


def others():
    """Returns the unexpected alerts of the measured services that reached the sink."""
    return {one["alertname"] for service, allowed in MEASURED for one in service.alerts() if one["alertname"] not in allowed}


def time_of(stack, name, end, instances):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.start(), instances))
    for one in instances:
        one.is_scraped()
    with Watch(stack) as watch:
        ends = one_after_the_other(instances, end)
        until(lambda: all((name, one.instance) in watch.seen for one in instances), f"{name} of all {len(instances)}",
              or_else=lambda: f"{sum((name, one.instance) in watch.seen for one in instances)} have arrived")
        took = [watch.seen[name, one.instance] - ended for one, ended in zip(instances, ends)]
    for one in instances:
        if one.program.poll() is None:
            one.kill()
    text = f"median {statistics.median(took):.1f} s, maximum {max(took):.1f} s, minimum {min(took):.1f} s"
    in_time = sum(one <= WITHIN for one in took)
    return f"{in_time} of {len(took)} within {WITHIN} s: {text}"
