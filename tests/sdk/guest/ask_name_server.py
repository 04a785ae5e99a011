"""Asks every name server of /etc/resolv.conf for a name, and prints who answered.

Usage: ask_name_server.py NAME. "There is no such name" is an answer too: what counts is that the
server was reached. The question is one of RFC 1035, by UDP.
"""

import secrets
import socket
import struct
import sys


def question(name, number):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def ask(server, name):
    number = secrets.randbelow(1 << 16)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        channel.connect((server, 53))
        channel.send(question(name, number))
        return struct.unpack(">H", channel.recv(512)[:2]) == (number,)


with open("/etc/resolv.conf") as file:
    lines = [line.split() for line in file]
for words in lines:
    if words[:1] == ["nameserver"]:
        try:
            print(words[1], "answered" if ask(words[1], sys.argv[1]) else "answered something else")
        except OSError as reason:
            print(words[1], "silent", reason)
