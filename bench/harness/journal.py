"""Journals: what happened when, as `bench/src/journal.rs` writes it.

Times are nanoseconds of the monotonic clock, which all processes share: those
of `time.monotonic_ns()`.
"""

import collections


class Journal:
    """A file that others write; read along."""

    def __init__(self, path):
        self.path = path
        self.lines = []
        self.offset = 0
        open(path, "w").close()

    def read(self):
        """All whole lines so far, each as (time, word, ...)."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            new = file.read()
        whole = new[:new.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.decode().splitlines():
            at, *words = line.split("\t")
            self.lines.append((int(at), *words))
        return self.lines


# A call as a backend saw it. `ended` is None while it is under way, or for ever
# if its process was killed; `how` is one of the words of `bench-faulty`.
Served = collections.namedtuple("Served", "id method begun ended how")


def served(journal):
    """Every begin of a call at one backend."""
    done, open_calls = [], collections.defaultdict(list)
    for at, word, *rest in journal.read():
        if word == "begin":
            open_calls[rest[1]].append((rest[0], at))
        elif rest[1:] and open_calls[rest[1]]:
            method, begun = open_calls[rest[1]].pop(0)
            done.append(Served(rest[1], method, begun, at, word))
    for id, begins in open_calls.items():
        done += [Served(id, method, begun, None, None) for method, begun in begins]
    return done


# A call as its client saw it. `due`: when its time had come, from which on its
# latency counts. `how`: `0`, another gRPC status, or what came instead.
Called = collections.namedtuple("Called", "id method due made ended how")


def called(journal):
    """Every ended call of a load."""
    return [Called(id, id.split("-")[0], int(due), int(made), at, how)
            for at, id, due, made, how in journal.read()]
