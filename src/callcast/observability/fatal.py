"""The one way in which a fault of the program ends the process: a trace in the log, then exit code 1, at once.

An error that somebody awaits takes its usual way. What has nobody to await it leads here: a callback of the loop, a
detached task (`observed`), a thread. Waiting for an orderly end would trust the very parts that may be broken, and
needs no trust: the outbox is made for an end at any moment, and a supervisor starts the process again.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import aiohttp

from callcast.observability import logs

EXIT_FAULT = 1
F = TypeVar("F", bound=asyncio.Future[Any])
T = TypeVar("T")


def end(error: BaseException) -> None:
    """Does not return."""
    try:
        logs.show_trace(type(error), error, error.__traceback__)
        logs.flush()
    finally:
        os._exit(EXIT_FAULT)


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """From now on whatever raises in a callback of this loop, in a task that is not awaited, or in a thread, ends
    the process.
    """
    loop.set_exception_handler(_in_loop)
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable


def observed(future: F) -> F:
    """The same task, whose error ends the process. For tasks that run beside what started them."""
    future.add_done_callback(_raise)
    return future


class Tasks(asyncio.TaskGroup):
    """A group none of whose tasks may fail. It does not wait for the others first, which may wait for the failed."""

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        return observed(super().create_task(coro, name=name, context=context))


def _raise(future: asyncio.Future[Any]) -> None:
    """An error raised in a callback is the loop's to handle."""
    if not future.cancelled():
        future.result()


def _in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException) and _is_fault(error, context):
        end(error)
    facts = {"detail": str(context.get("message")), "reason": "asyncio"}
    logs.bound().error(logs.LIBRARY, **facts, exc_info=error if isinstance(error, BaseException) else None)


def _is_fault(error: BaseException, context: dict[str, Any]) -> bool:
    """Everything in a callback; elsewhere not what the network does to a connection or a task of the HTTP library
    that is not needed any more, nor a result that was no task's and that was not wanted.
    """
    if "handle" in context:
        return True
    is_result = "future" in context and not isinstance(context["future"], asyncio.Task)
    return not is_result and not isinstance(error, OSError | aiohttp.ClientError)


def _in_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None:
        end(hook.exc_value)


def _unraisable(hook: "sys.UnraisableHookArgs") -> None:
    """An error while something was deleted: it can do no harm any more."""
    logs.bound().error(logs.LIBRARY, reason="unraisable", detail=str(hook.err_msg), exc_info=hook.exc_value)
