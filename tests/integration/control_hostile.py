# SPDX-License-Identifier: BSD-3-Clause

# Everything that a client of the control socket should not do, at a running
# nbdkit: it goes on, answers others meanwhile, and has not grown.
#
#   control_hostile.py SOCKET PID SEED SLOW

import json
import os
import random
import socket
import sys
import time

path, pid, seed, slow = sys.argv[1], *map (int, sys.argv[2:5])
MAX_CLIENTS = 16
rng = random.Random (seed)

class Client:
    def __init__ (self):
        self.socket = socket.socket (socket.AF_UNIX)
        self.socket.settimeout (30 * slow)
        self.socket.connect (path)
        self.lines = self.socket.makefile ("rb")
        self.greeting = self.reply ()

    def send (self, data):
        self.socket.sendall (data)

    # None: the connection is at its end.
    def reply (self):
        try:
            line = self.lines.readline ()
        except ConnectionResetError:
            return None
        return json.loads (line) if line.endswith (b"\n") else None

    def ask (self, command, **arguments):
        self.send (json.dumps (dict (arguments, command=command)).encode ()
                   + b"\n")
        return self.reply ()

    def close (self):
        self.lines.close ()
        self.socket.close ()

def memory ():
    with open ("/proc/%d/status" % pid) as f:
        return next (int (l.split ()[1]) for l in f if l.startswith ("VmRSS"))

def descriptors ():
    return len (os.listdir ("/proc/%d/fd" % pid))

def refused (reply, words=""):
    assert reply and reply["ok"] is False and words in reply["error"], reply

def works ():
    client = Client ()
    assert client.ask ("status")["ok"] is True
    client.close ()

def soon (condition):
    end = time.monotonic () + 30 * slow
    while not condition ():
        assert time.monotonic () < end, "still not so"
        time.sleep (0.02)

# One client of them all after the other; what they are refused with.
def bad_lines ():
    client = Client ()
    for line, words in (
            (b"", "not a JSON object"),
            (b"\0", "a zero is in it"),
            (b"GET / HTTP/1.1\r", "not a JSON object"),
            (b"[" * 60000, "nesting too deep"),
            (b'{"a":' * 10000, "nesting too deep"),
            (b'{"command":"\xff"}', "utf-8"),
            (b'{"command":"\xc3"}', "utf-8"),
            (b'{"id":1e999,"command":"flush"}', "id: expected"),
            (b'{"command":"map","cells":' + b"9" * 60000 + b"}", "cells: "),
            (b'{"command":"map","cells":-0.0}', "cells: "),
            (b'{"command":"drain","timeout_ms":-1}', "timeout_ms: "),
            (b'{"command":"set","key":"gc-percent","value":"'
             + b"9" * 60000 + b'"}', "gc-percent=999"),
            (b'{"command":"' + b"x" * 60000 + b'"}', "no such command"),
            (b'{"' + b"x" * 60000 + b'":1,"command":"flush"}',
             "does not have")):
        client.send (line + b"\n")
        reply = client.reply ()
        refused (reply)
        assert words in reply["error"].lower () or words in reply["error"], (
            line[:50], reply)
        assert len (reply["error"]) < 300
    # Of a key that is there twice the last counts.
    client.send (b'{"command":"none","command":"flush","id":1,"id":2}\n')
    assert client.reply () == {"id": 2, "ok": True}
    client.close ()

def huge_line ():
    client = Client ()
    try:
        for i in range (64):
            client.send (b"x" * 16384)
    except (BrokenPipeError, ConnectionResetError):
        pass
    reply = client.reply ()
    # The reply may be lost with what was not read.
    if reply:
        refused (reply, "longer than 64 KiB")
        assert client.reply () is None
    client.close ()

def garbage ():
    for i in range (100):
        client = Client ()
        data = rng.randbytes (rng.randrange (5000))
        if i % 2:
            data = bytes (rng.choice (b'{}[]",:\\0 \ncommandflush')
                          for _ in range (rng.randrange (5000)))
        try:
            client.send (data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if rng.random () < 0.5:
            client.socket.shutdown (socket.SHUT_WR)
            while client.reply () is not None:
                pass
        client.close ()

# Asks, and does not stay for the answer.
def leavers ():
    for i in range (300):
        client = Client ()
        client.send ((b'{"command":"drain"}\n', b'{"command":"flush"}\n',
                      b'{"command":"metrics"}\n' * 20,
                      b'{"command":"sta')[i % 4])
        client.close ()

def crowd ():
    clients = []
    # Those that have left may not have been noticed yet.
    soon (lambda: descriptors () <= descriptors_before)
    for i in range (50):
        clients.append (Client ())
    full = [c for c in clients if "error" in c.greeting]
    assert len (full) == 50 - MAX_CLIENTS, len (full)
    for client in clients:
        if client in full:
            assert client.greeting["error"] == "too many clients"
            assert client.reply () is None
        else:
            assert client.ask ("flush")["ok"] is True
    for client in clients:
        client.close ()
    soon (lambda: descriptors () <= descriptors_before)

# Many requests in one go are answered in their order.
def pipeline ():
    client = Client ()
    client.send (b"".join (b'{"id":%d,"command":"%s"}\n'
                           % (i, (b"flush", b"map", b"drain", b"none")[i % 4])
                           for i in range (200)))
    client.socket.shutdown (socket.SHUT_WR)
    i = 0
    while i < 200:
        reply = client.reply ()
        if "progress" not in reply:
            assert reply["id"] == i and reply["ok"] is (i % 4 != 3), reply
            i += 1
    assert client.reply () is None
    client.close ()

print ("seed", seed)
works ()
descriptors_before = descriptors ()

# These two take 5 seconds, of which the others make use.
slow_client = Client ()
slow_client.send (b'{"command":')
deaf_client = Client ()
deaf_client.socket.settimeout (1)
try:
    for i in range (100000):
        deaf_client.send (b'{"command":"metrics"}\n' * 100)
except (socket.timeout, BrokenPipeError, ConnectionResetError):
    pass
works ()

def attack ():
    bad_lines ()
    huge_line ()
    garbage ()
    leavers ()
    pipeline ()
    works ()

attack ()
warm = memory ()
for i in range (3):
    attack ()
grown = memory () - warm
print ("memory: %d KiB, grown by %d KiB" % (warm, grown))
# A sanitizer keeps freed memory for a while.
assert slow > 1 or grown < 4096

refused (slow_client.reply (), "the rest of the line did not come")
assert slow_client.reply () is None
slow_client.close ()
soon (lambda: descriptors () <= descriptors_before)
deaf_client.close ()
crowd ()
works ()
