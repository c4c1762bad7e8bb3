"""A worker that keeps the contract with the supervisor and serves next to nothing. Its behaviour is in its arguments.

    fake_worker.py [--exit CODE] [--once FILE] [--wait PIPE]

With `--exit` it ends before it serves; with `--once` only as long as FILE does not exist, which it then makes. With `--wait` it
serves once the named PIPE is opened for writing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

stopping = threading.Event()


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--exit", type=int)
    arguments.add_argument("--once", type=Path)
    arguments.add_argument("--wait", type=Path)
    asked = arguments.parse_args()
    hello = json.loads(os.read(0, 1 << 16))
    if asked.exit is not None and not (asked.once and asked.once.exists()):
        if asked.once:
            asked.once.touch()
        print(f"fake: ending with {asked.exit}", file=sys.stderr)
        return int(asked.exit)
    if asked.wait:
        asked.wait.open().close()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for sigwait below, whichever thread gets it
    server = Server(hello)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    threading.Thread(target=end_with_supervisor, daemon=True).start()
    os.write(hello["notify"], b"ready\n")
    os.close(hello["notify"])
    signal.sigwait({signal.SIGTERM})
    stopping.set()
    server.shutdown()
    server.server_close()  # joins the threads of what is in flight
    return 0


def end_with_supervisor() -> None:
    os.read(0, 1)
    os._exit(1)


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, hello: dict[str, Any]) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.hello = hello
        self.socket.close()
        self.socket = socket.socket(fileno=hello["fd"])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(9)
        if self.path == "/late":  # says that it began, and is answered once the worker was asked to stop
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"began\n")
            stopping.wait()
            self.wfile.write(b"answered\n")
            self.wfile.write(b"valkey listens\n" if self.valkey_listens() else b"no valkey\n")
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"pid": os.getpid(), **self.server.hello}).encode())

    def valkey_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self.server.hello["settings"]["levels"]["redis"]["url"].removeprefix("unix://")) == 0

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
