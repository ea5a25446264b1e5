"""How long it takes from the end of a process to its alert in Alertmanager, at the scrape interval of the repository."""

import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import services
from programs import until

# The claim: each of them, on a machine that is not held up by others. It is counted and said; what fails is an alert that
# does not come at all.
WITHIN = 30
# All services that were measured, and the alerts that each may have. When they come in full, the scenarios look at.
MEASURED = []
# So that ends are at all moments between two scrapes and two evaluations.
SPREAD = 11


class Watch:
    """When each alert was first active in Alertmanager."""

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
    """Its end is when its report is final: it then waits for the last scrape."""
    one.program.send_signal(signal.SIGTERM)
    one.ends()
    return one.report()["at"]


def run(stack, headcount, _):
    return services.run(stack, headcount, "figures")


def lingers(stack, _, example):
    return services.embedded(stack, example, "figures", "thread")


# By the alert that is waited for; all are gone at last.
KINDS = {
    "HeadcountVanished": (killed, run),
    "HeadcountUncleanExit": (killed_and_started, run),
    "HeadcountLingeringThreads": (stopped, lingers),
}


def one_after_the_other(instances, end):
    """Each at its own moment; when each ended."""
    def at(number):
        time.sleep(SPREAD * number / len(instances))
        return end(instances[number])

    with ThreadPoolExecutor(len(instances)) as pool:
        return list(pool.map(at, range(len(instances))))


def measure(checks, stack, headcount, example, runs):
    for name, (end, make) in KINDS.items():
        instances = [make(stack, headcount, example) for _ in range(runs)]
        allowed = {name, "HeadcountTargetDown"} | ({"HeadcountVanished"} if make is run else set())
        MEASURED.extend((one, allowed) for one in instances)
        checks.check(f"figure: {name} comes after the end, {runs} of {runs}",
                     lambda n=name, e=end, i=instances: time_of(stack, n, e, i))


def others():
    """What reached the sink of those that were measured, and should not have."""
    return {one["alertname"] for service, allowed in MEASURED for one in service.alerts() if one["alertname"] not in allowed}


def time_of(stack, name, end, instances):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.start(), instances))
    for one in instances:
        one.is_scraped()
    with Watch(stack) as watch:
        ends = one_after_the_other(instances, end)
        until(lambda: all((name, one.instance) in watch.seen for one in instances), f"{name} of all {len(instances)}",
              or_else=lambda: f"{sum((name, one.instance) in watch.seen for one in instances)} have come")
        took = [watch.seen[name, one.instance] - ended for one, ended in zip(instances, ends)]
    for one in instances:
        if one.program.poll() is None:
            one.kill()
    text = f"median {statistics.median(took):.1f} s, maximum {max(took):.1f} s, minimum {min(took):.1f} s"
    in_time = sum(one <= WITHIN for one in took)
    return f"within {WITHIN} s {in_time} of {len(took)}: {text}"
