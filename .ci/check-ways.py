#!/usr/bin/env python3
"""Checks what nodes of one machine save: messages over local sockets cost at most half the CPU of libp2p over TCP.

    .ci/check-ways.py PATH/TO/benchmark [SECONDS]

Runs the example `benchmark`, in a release build, for so many seconds a row (1 unless told), and compares the CPU
seconds for each GB put and got. A machine that does other things as well spoils single figures, so a run that shows
more is repeated twice.
"""

import json
import subprocess
import sys

LOCAL, NETWORK = "local socket", "libp2p-tcp"
MOST = 0.5
RUNS = 3


def ratios(benchmark, seconds):
    """The CPU seconds for a GB over local sockets, as parts of those over TCP."""
    command = [benchmark, "--ways", "--json", "--seconds", seconds]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    ways = {way["way"]: way for way in json.loads(done.stdout)["results"]}
    found = {}
    for verb in ("put", "get"):
        local, network = (ways[way][f"{verb}_cpu_s_per_gb"] for way in (LOCAL, NETWORK))
        found[verb] = local / network
        print(f"{verb}: {local:.2f} CPU s/GB over local sockets, {network:.2f} over TCP: {found[verb]:.2f}")
    return found


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    benchmark, seconds = sys.argv[1], (sys.argv + ["1"])[2]
    for _ in range(RUNS):
        found = ratios(benchmark, seconds)
        if all(ratio <= MOST for ratio in found.values()):
            print(f"local sockets cost at most {MOST} of the CPU of libp2p over TCP")
            return
    sys.exit(f"local sockets cost more than {MOST} of the CPU of libp2p over TCP, in {RUNS} runs")


if __name__ == "__main__":
    main()
