"""Tries TCP connections from inside a sandbox.

Usage: reach.py SECONDS HOST:PORT... Prints one line for each: "HOST:PORT open" or
"HOST:PORT closed REASON". All are tried at once, so it takes SECONDS at most.
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def reach(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=float(sys.argv[1])).close()
        return f"{target} open"
    except OSError as reason:
        return f"{target} closed {reason}"


targets = sys.argv[2:]
with ThreadPoolExecutor(len(targets)) as pool:
    for line in pool.map(reach, targets):
        print(line)
