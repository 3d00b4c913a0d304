"""How a client script talks to the test that runs it: JSON lines on stdout.

A case ends as {"case", "ok", "detail"}; a case that cancelled a call adds
"call" and "cancelled_at", so that the test can look for the call in the
journal of the service. A client that must know that its call has reached the
service writes {"await": "begin", "call": C} and reads one line from stdin.
"""

import json
import sys
import time
import traceback


def emit(**fields):
    print(json.dumps(fields), flush=True)


def await_begin(call):
    """Returns when the service has seen the call; with no test around, on Enter."""

    emit(**{"await": "begin", "call": call})
    if not sys.stdin.readline():
        raise EOFError("stdin ended before the call was confirmed")


def cancelled(call):
    """What a case returns after it has cancelled the call."""

    return {"call": call, "cancelled_at": int(time.time() * 1000)}


def run(cases):
    """Runs the cases, reports each, and returns the exit status."""

    failed = 0
    for name, case in cases:
        try:
            emit(case=name, ok=True, **(case() or {}))
        except Exception:
            failed += 1
            emit(case=name, ok=False, detail=traceback.format_exc(limit=-3))
    return 1 if failed else 0


def check(condition, *what):
    """Like assert, but says what was there and survives `python -O`."""

    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))
