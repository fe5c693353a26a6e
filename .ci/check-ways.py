#!/usr/bin/env python3
"""Checks what nodes of one machine save: messages over local sockets cost at most half the CPU of libp2p over TCP.

    .ci/check-ways.py PATH/TO/benchmark [SECONDS]

Runs the example `benchmark` for so many seconds a row (0.5 unless told), and compares the CPU seconds for each GB put
and got. In the build of the tests, too, what does the work is optimised: ciphers, libp2p, and the frames. What else a
machine does adds to single figures and takes nothing away: one row in four was seen two to ten times as dear, in the
kernel's copy into fresh pages. So the least of up
to twelve runs counts, of either way; the first that is good enough is the last.
"""

import json
import subprocess
import sys

LOCAL, NETWORK = "local socket", "libp2p-tcp"
MOST = 0.5
RUNS = 12


def measure(benchmark, seconds):
    """The CPU seconds for a GB of each way and verb, in one run."""
    command = [benchmark, "--ways", "--json", "--seconds", seconds]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    ways = {way["way"]: way for way in json.loads(done.stdout)["results"]}
    return {(way, verb): ways[way][f"{verb}_cpu_s_per_gb"] for way in (LOCAL, NETWORK) for verb in ("put", "get")}


def ratios(least):
    """What local sockets take, as parts of what TCP takes."""
    found = {}
    for verb in ("put", "get"):
        local, network = least[LOCAL, verb], least[NETWORK, verb]
        found[verb] = local / network
        print(f"{verb}: {local:.2f} CPU s/GB over local sockets, {network:.2f} over TCP: {found[verb]:.2f}")
    return found


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    benchmark, seconds = sys.argv[1], (sys.argv + ["0.5"])[2]
    least = {}
    for _ in range(RUNS):
        for row, figure in measure(benchmark, seconds).items():
            least[row] = min(figure, least.get(row, figure))
        if all(ratio <= MOST for ratio in ratios(least).values()):
            print(f"local sockets cost at most {MOST} of the CPU of libp2p over TCP")
            return
    sys.exit(f"local sockets cost more than {MOST} of the CPU of libp2p over TCP, in {RUNS} runs")


if __name__ == "__main__":
    main()
