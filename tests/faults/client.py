"""A client: carries out its wishes over HTTP, one after the other, and records what it was told.

What it does not know it records as unknown; a write sent again goes with the same `Idempotency-Key`, to another node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import orjson

from tests.faults.connection import Answer, Connection, Lost, NotSent
from tests.faults.history import Kind, Mode, Op, Outcome
from tests.faults.plan import REGISTERS, STEP, Action, Wish

PATIENCE: Final = 3.0  # seconds for an answer
_TRIES: Final = 4  # of a write while faults go on; what is unknown then is asked for again when they are over
_SOON: Final = 1.5  # seconds in which a write without a key of its own is asked for: its answer goes with the log's records
_FLOOD: Final = 300  # writes of other keys at once
_FLOODED: Final = 3_000  # different keys
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Write:
    """A write on its way: what is sent, and what is known of it so far."""

    op: Op  # as it will be recorded, but for how it ended
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    retried: bool = True
    unsure: bool = False  # an attempt may have been carried out
    until: float = inf  # of the monotonic clock: later it is not asked for again
    attempts: int = 0
    why: str = ""  # it was refused

    @property
    def findable(self) -> bool:
        """Whether to send it again is to ask what became of it."""
        return "Idempotency-Key" in self.headers and time.monotonic() < self.until


class Client:
    """One client, with a connection to each node. `begin` is a word that no two runs over the same stores share."""

    def __init__(
        self,
        number: int,
        connections: Sequence[Connection],
        record: Callable[[Op], None],
        *,
        run: str,
        invalidates: bool,
    ) -> None:
        self.number = number
        self.open: list[Write] = []  # of unknown outcome, to be asked for again
        self._connections = connections
        self._record = record
        self._run = run
        self._invalidates = invalidates
        self._seen: dict[str, int] = {}  # the newest version of each key that this client knows of

    async def work(self, wishes: Iterator[Wish], until: asyncio.Event) -> None:
        """Wish after wish, until told to stop."""
        for wish in wishes:
            if await _set_within(until, wish.pause):
                return
            await self._carry_out(wish)

    async def settle(self, *, within: float) -> None:
        """Find out what became of the writes of unknown outcome, now that every node answers."""
        deadline = time.monotonic() + within
        while self.open and time.monotonic() < deadline:
            write = self.open.pop()
            if not await self._attempt(write, write.attempts % len(self._connections)):
                self.open.append(write)
                await asyncio.sleep(0.1)
        for write in self.open:
            self._end(write, Outcome.UNKNOWN)
        self.open.clear()

    async def read(self, wish: Wish, mode: Mode, *, least: int = 0) -> Answer | None:
        """Read a key on a node; the answer if there was one, be it that there is no entry."""
        headers: Mapping[str, str] = {}
        if mode is Mode.LEAST:
            headers = {"Min-Version": str(least)}
        elif mode is Mode.FRESH:
            headers = {"Cache-Control": "no-cache"}
        op = Op(self.number, wish.number, Kind.READ, wish.key, time.monotonic(), 0.0, Outcome.AWAY, mode=mode, least=least)
        connection = self._connections[wish.node]
        try:
            answer = await connection.ask("GET", f"/v1/cache/{wish.key}", headers, within=PATIENCE)
        except (NotSent, Lost) as exc:
            self._record(op._replace(end=time.monotonic(), node=connection.node, detail=str(exc)))
            return None
        op = op._replace(end=time.monotonic(), node=answer.node)
        if answer.status == 200:
            self._note(wish.key, answer.version)
            self._record(op._replace(outcome=Outcome.OK, version=answer.version, value=answer.body.decode()))
        elif answer.status == 404:
            self._record(op._replace(outcome=Outcome.OK))
        elif answer.status == 410 and mode is Mode.LEAST:
            self._seen.pop(wish.key, None)  # what it had seen is of a history that was lost
            self._record(op._replace(outcome=Outcome.OVER, detail=answer.problem("detail")))
            return None
        else:
            outcome = Outcome.AWAY if answer.status == 503 else Outcome.ODD
            self._record(op._replace(outcome=outcome, detail=f"{answer.status} {answer.problem('detail')}"))
            return None
        return answer

    async def put(self, key: str) -> int:
        """Write a key; its version. Only for times when nothing goes wrong."""
        wish = Wish(0, Action.SET, key, 0, True, 0.0)
        await self._write(self._set(wish), wish)
        return self._seen[key]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def _carry_out(self, wish: Wish) -> None:
        match wish.action:
            case Action.READ:
                await self.read(wish, Mode.PLAIN)
            case Action.READ_FRESH:
                await self.read(wish, Mode.FRESH)
            case Action.READ_LEAST:
                await self.read(wish, Mode.LEAST, least=self._seen.get(wish.key, 0))
            case Action.SET:
                await self._write(self._set(wish), wish)
            case Action.DELETE:
                await self._write(self._begun(wish, Kind.DELETE, "DELETE"), wish)
            case Action.INCREMENT:
                body = b'{"operation": "increment", "value": %s}' % STEP.encode()
                await self._write(self._begun(wish, Kind.INCREMENT, "POST", value=STEP, headers=_JSON, body=body), wish)
            case Action.CREATE:
                await self._write(self._set(wish, expected=0, headers={"If-None-Match": "*"}), wish)
            case Action.SWAP:
                found = await self.read(wish, Mode.PLAIN)
                if found is not None and found.status == 200:
                    await self._write(
                        self._set(wish, expected=found.version, headers={"If-Match": found.headers["etag"]}), wish
                    )
            case Action.FILL:
                found = await self.read(wish, Mode.PLAIN)
                if found is not None and found.status == 404:
                    token = found.headers["fill-token"]
                    sequence = int(token.rpartition(":")[2])
                    await self._write(self._set(wish, token=sequence, headers={"Fill-Token": token}), wish)
            case Action.INVALIDATE:
                if self._invalidates:
                    await self._write(self._invalidation(wish), wish)
            case Action.FLOOD:
                await self._flood(wish)

    def _set(self, wish: Wish, *, expected: int = -1, token: int = -1, headers: Mapping[str, str] | None = None) -> Write:
        value = f'"{self.number}:{wish.number}"'
        write = self._begun(wish, Kind.SET, "PUT", value=value, headers={**_JSON, **(headers or {})}, body=value.encode())
        write.op = write.op._replace(expected=expected, token=token)
        return write

    def _invalidation(self, wish: Wish) -> Write:
        body = orjson.dumps({"pattern": wish.key})
        write = self._begun(wish, Kind.INVALIDATE, "POST", headers=_JSON, body=body)
        write.path = "/v1/invalidate"
        prefix = wish.key.removesuffix("*")
        write.op = write.op._replace(key="", keys=tuple(key for key in REGISTERS if key.startswith(prefix)))
        return write

    def _begun(
        self,
        wish: Wish,
        kind: Kind,
        method: str,
        *,
        value: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Write:
        sent = dict(headers or {})
        if wish.retried:
            sent["Idempotency-Key"] = f"{self._run}-{self.number}-{wish.number}"
        op = Op(self.number, wish.number, kind, wish.key, time.monotonic(), 0.0, Outcome.UNKNOWN, value=value)
        return Write(op, method, f"/v1/cache/{wish.key}", sent, body, wish.retried)

    async def _write(self, write: Write, wish: Wish) -> None:
        for attempt in range(_TRIES):
            if await self._attempt(write, (wish.node + attempt) % len(self._connections)):
                return
            await asyncio.sleep(0.05 * 3**attempt)
            if not (write.retried or (write.unsure and write.findable)):
                break
        if write.unsure and write.retried:
            self.open.append(write)
        else:
            self._end(write, Outcome.UNKNOWN if write.unsure else Outcome.REFUSED)

    async def _attempt(self, write: Write, node: int) -> bool:
        """Send it once; whether its outcome is known now, and recorded."""
        write.attempts += 1
        connection = self._connections[node]
        write.op = write.op._replace(node=connection.node)
        try:
            answer = await connection.ask(write.method, write.path, write.headers, write.body, within=PATIENCE)
        except NotSent as exc:
            write.why = f"not sent: {exc}"
            return False
        except Lost:
            write.unsure = True
            return False
        write.op = write.op._replace(node=answer.node)
        version = answer.version
        if answer.status < 300 or (answer.status == 404 and version):  # the deletion of what is not there is one all the same
            self._acknowledged(write, answer)
        elif answer.status == 412:
            write.why = "412"
            self._end(write, Outcome.REFUSED)
        elif answer.status == 503:
            write.why = f"503 {answer.problem('detail')}"
            if answer.problem("code") == "OUTCOME_UNKNOWN":
                write.unsure = True
                if "Idempotency-Key" not in write.headers and (asked := answer.problem("requestId")):
                    write.headers["Idempotency-Key"] = asked
                    write.until = time.monotonic() + _SOON
            return False
        else:
            write.why = f"{answer.status} {answer.problem('detail')}"
            self._end(write, Outcome.ODD)
        return True

    def _acknowledged(self, write: Write, answer: Answer) -> None:
        op, version = write.op, answer.version
        if op.kind is Kind.INVALIDATE:
            version = int(orjson.loads(answer.body)["sequence"])
        elif op.kind is Kind.INCREMENT:
            write.op = op._replace(total=answer.body.rpartition(b'"value":')[2].rstrip(b"}").decode())
        if op.kind in (Kind.SET, Kind.INCREMENT):
            self._note(op.key, version)
        write.op = write.op._replace(version=version)
        self._end(write, Outcome.OK)

    def _end(self, write: Write, outcome: Outcome) -> None:
        detail = "" if outcome is Outcome.OK else write.why
        self._record(write.op._replace(end=time.monotonic(), outcome=outcome, attempts=write.attempts, detail=detail))

    def _note(self, key: str, version: int) -> None:
        self._seen[key] = max(version, self._seen.get(key, 0))

    async def _flood(self, wish: Wish) -> None:
        first = wish.number * _FLOOD
        operations = [{"operation": "set", "key": f"flood:{(first + n) % _FLOODED}", "value": n} for n in range(_FLOOD)]
        body = orjson.dumps({"operations": operations})
        try:
            await self._connections[wish.node].ask("POST", "/v1/batch", _JSON, body, within=PATIENCE)
        except (NotSent, Lost):
            return  # nothing is asked of them


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
