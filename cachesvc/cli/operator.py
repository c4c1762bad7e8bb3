"""Operator: whoever runs a command against a service, and what every such command takes: `--url`, `--token`, `--json`.

On stdout is what was asked for and nothing else: with `--json` one document, or one a line where it is a stream. Questions,
progress and errors go to stderr.
"""

from __future__ import annotations

import functools
import inspect
import os
import select
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec

import typer

from cachesvc.cli.exits import Exit, Failed
from cachesvc.errors import CacheError, InvalidInput

if TYPE_CHECKING:
    from cachesvc.client.http import Client

P = ParamSpec("P")

DEFAULT_URL = "http://127.0.0.1:8080"
Url = Annotated[str, typer.Option("--url", envvar="CACHESVC_URL", help="Where the service is.")]
Token = Annotated[str | None, typer.Option("--token", envvar="CACHESVC_TOKEN", help="What it is told to let you in.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else.")]
_LOOK = 0.2  # seconds between two looks at whether a Ctrl-C has come
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_TAKEN = (
    inspect.Parameter("url", _KEYWORD, default=DEFAULT_URL, annotation=Url),
    inspect.Parameter("token", _KEYWORD, default=None, annotation=Token),
    inspect.Parameter("as_json", _KEYWORD, default=False, annotation=Json),
)


class NoClient(CacheError):
    """The extra that the operator commands need is not installed."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Whom to ask, and for whom to print."""

    url: str
    token: str | None
    as_json: bool

    def connected(self) -> Client:
        """A client of the service."""
        try:
            from cachesvc.client.http import Client
        except ImportError as exc:
            raise NoClient(f"the operator commands need {exc.name}: pip install 'cachesvc[client]'") from exc
        return Client(self.url, token=self.token)

    @property
    def can_be_asked(self) -> bool:
        """Whether somebody sits at a terminal."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def agrees(self, question: str) -> bool:
        """Ask; anything but yes is no."""
        typer.echo(f"{question} [y/N] ", nl=False, err=True)
        while not select.select([sys.stdin], [], [], _LOOK)[0]:
            pass  # a Ctrl-C that came just before the wait began is raised here: reading alone would not end for it
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def operator(command: Callable[Concatenate[Operator, P], Exit | None]) -> Callable[..., None]:
    """A function of an `Operator` as a command that takes the three options as well and ends with the exit code returned."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter.replace(kind=_KEYWORD) for parameter in list(signature.parameters.values())[1:]]

    @functools.wraps(command)
    def run(*, url: str, token: str | None, as_json: bool, **given: object) -> None:
        try:
            _check_encoding(given)
            code = command(Operator(url, token, as_json), **given)  # type: ignore[arg-type, call-arg] # as typer read them
            sys.stdout.flush()
        except OSError as exc:  # of the output: what a command reads and writes itself, it translates
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at the end
            if not isinstance(exc, BrokenPipeError):
                raise Failed(f"the output cannot be written: {exc.strerror}") from exc
            code = Exit.PIPE
        if code:
            raise typer.Exit(code)

    parameters = [*own, *_TAKEN]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _check_encoding(given: Mapping[str, object]) -> None:
    """Raises `InvalidInput` for bytes on the command line that are no UTF-8: they are in no key, and in no JSON."""
    for name, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise InvalidInput(name, "is not UTF-8") from None
