#!/usr/bin/env python3
"""Prints the alerts that Alertmanager sends: one line each, or the JSON of each message with --json.

    alert-sink.py [--listen HOST:PORT] [--json]

By default it listens on all addresses, for use in a container; outside of one, pass --listen 127.0.0.1:9095.
GET answers 200, for health checks.
"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Large enough for a message of Alertmanager with hundreds of alerts.
LARGEST_BODY = 4 * 1024 * 1024
# A slow client cannot occupy a thread for longer.
TIMEOUT_SECONDS = 10

PRINTING = threading.Lock()


def clean(text):
    """Returns the text as one printable line; a label may contain anything."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def line(alert):
    """Formats an alert: `12:03:04 FIRING critical HeadcountVanished a:1 (job orders): DESCRIPTION`"""
    labels = alert.get("labels", {})
    notes = alert.get("annotations", {})
    status = alert.get("status", "?")
    at = alert.get("endsAt" if status == "resolved" else "startsAt", "")
    where = labels.get("instance", "-")
    if "job" in labels:
        where += f" (job {labels['job']})"
    known = ("alertname", "severity", "instance", "job", "cause")
    others = "".join(f" {key}={value}" for key, value in sorted(labels.items()) if key not in known)
    text = notes.get("description") or notes.get("summary") or ""
    return clean(
        f"{at[11:19]} {status.upper()} {labels.get('severity', '-')} {labels.get('alertname', '?')} {where}{others}: {text}"
    )


def lines(message):
    """Returns the lines of a message; raises ValueError if it is not from Alertmanager."""
    if not isinstance(message, dict) or not isinstance(message.get("alerts"), list):
        raise ValueError("the message has no list of alerts")
    for alert in message["alerts"]:
        parts = [alert] + [alert.get(key, {}) for key in ("labels", "annotations")] if isinstance(alert, dict) else [None]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError("an alert, its labels or its annotations are not an object")
    return [line(alert) for alert in message["alerts"]]


class Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_SECONDS
    as_json = False

    def do_GET(self):
        self.answer(200, "ok")

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.answer(411, "Content-Length is required")
        if not 0 <= length <= LARGEST_BODY:
            return self.answer(413, f"more than {LARGEST_BODY} bytes")
        body = self.rfile.read(length)
        try:
            message = json.loads(body)
            readable = lines(message)
        except (ValueError, RecursionError) as error:
            return self.answer(400, clean(error))
        with PRINTING:
            print(json.dumps(message) if self.as_json else "\n".join(readable), flush=True)
        return self.answer(200, "ok")

    def answer(self, status, text):
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        # The unread part of a request must not be parsed as the next request.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        """Suppresses the request log: only alerts are printed."""


def address(text):
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError("expected HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


def main():
    parser = argparse.ArgumentParser(description="prints the alerts that Alertmanager sends")
    parser.add_argument("--listen", type=address, default=("0.0.0.0", 9095), metavar="HOST:PORT")
    parser.add_argument("--json", action="store_true", help="print each message as a line of JSON")
    given = parser.parse_args()
    Handler.as_json = given.json
    server = ThreadingHTTPServer(given.listen, Handler)
    server.daemon_threads = True
    host, port = server.server_address[:2]
    print(f"alert-sink: listening on {host}:{port}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
