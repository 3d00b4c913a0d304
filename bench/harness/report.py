"""The figures of a run: medians, the table, the JSON file."""

import json
import os
import statistics
import time

UNITS = [("cpu_us", "CPU µs/call", 1), ("rps", "calls/s", 0), ("p50_ms", "p50 ms", 2),
         ("p99_ms", "p99 ms", 2), ("kib_per_connection", "KiB/connection", 1),
         ("rss_kib", "RSS MiB", 1)]


class Report:
    """Collects rounds and failures; knows medians."""

    def __init__(self, workloads, peers):
        self.workloads, self.peers = workloads, peers
        self.rounds = {}
        self.failures = []

    def add(self, workload, peer, figures):
        self.rounds.setdefault(workload, {}).setdefault(peer, []).append(figures)

    def fail(self, workload, peer, error):
        self.failures.append({"workload": workload, "peer": peer, "error": str(error)})

    def medians(self):
        return {workload: {peer: median(rounds) for peer, rounds in peers.items()}
                for workload, peers in self.rounds.items()}

    def table(self):
        lines = []
        for workload, peers in self.medians().items():
            figures = [unit for unit in UNITS if any(unit[0] in row for row in peers.values())]
            lines += ["", f"### {self.workloads[workload].title}", "",
                      row(["peer", *(unit[1] for unit in figures), "spread", "leaves out"]),
                      row(["---"] + ["---:"] * (len(figures) + 1) + ["---"])]
            for peer in self.peers:
                if peer.name in peers:
                    lines.append(self.line(workload, peer, peers[peer.name], figures))
        for failure in self.failures:
            lines += ["", "FAILED {workload} {peer}: {error}".format(**failure)]
        return "\n".join(lines)

    def line(self, workload, peer, medians, figures):
        cells = [peer.name]
        for key, _, digits in figures:
            value = medians[key] / 1024 if key == "rss_kib" else medians[key]
            cells.append(f"{value:,.{digits}f}")
        main = figures[0][0] if figures[0][0] == "cpu_us" else "kib_per_connection"
        values = [figure[main] for figure in self.rounds[workload][peer.name]]
        cells.append(f"{min(values):.1f}–{max(values):.1f}")
        return row([*cells, peer.leaves_out])

    def write(self, directory, about):
        whole = {"about": about, "medians": self.medians(), "rounds": self.rounds,
                 "leaves_out": {peer.name: peer.leaves_out for peer in self.peers},
                 "failures": self.failures}
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        paths = [os.path.join(directory, name + ".json") for name in (stamp, "latest")]
        for path in paths:
            with open(path, "w") as file:
                json.dump(whole, file, indent=1)
        return paths[0]


def median(rounds):
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def row(cells):
    return "| " + " | ".join(cells) + " |"
