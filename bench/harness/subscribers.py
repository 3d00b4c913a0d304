"""`bench-subscribers`, told what to do line by line."""

import json
import select
import subprocess

from .process import pinned, tail

# 5,000 handshakes, or two seconds of quiet behind a long run.
ANSWER_SECONDS = 180


class Subscribers:
    """One load process; for a `with`."""

    def __init__(self, bench, feed, port, streams=0):
        self.log = bench.log("subscribers")
        argv = [bench.binary("bench-subscribers"), "--to", f"127.0.0.1:{port}",
                "--ca", bench.material.ca,
                "--authorization-file", bench.material.authorization_file,
                "--subscribe", feed.subscribe, "--publish", feed.publish,
                "--streams", str(streams)]
        with open(self.log, "w") as log:
            self.popen = subprocess.Popen(
                pinned(argv, bench.load_core, bench.nice), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.popen.stdin.close()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()

    def do(self, *words):
        """Says a line and returns the answer; raises with what was wrong."""
        command = " ".join(map(str, words))
        try:
            self.popen.stdin.write(command + "\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended, and its log says why.
        if not select.select([self.popen.stdout], [], [], ANSWER_SECONDS)[0]:
            raise RuntimeError(f"no answer to '{command}' after {ANSWER_SECONDS} s")
        line = self.popen.stdout.readline()
        if not line:
            raise RuntimeError(f"'{command}': {tail(self.log)}")
        return json.loads(line)
