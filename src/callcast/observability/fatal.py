"""Ends the process on an unhandled programming error: logs the traceback, then exits with code 1 at once.

This handles errors that no caller awaits: in a callback of the event loop, a detached task (`observed`), or a thread.
There is no orderly shutdown, because it would run code that may be broken, and is not needed: the outbox survives an
exit at any moment, and systemd or the container runtime restarts the process.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import aiohttp

from callcast.exit_codes import ExitCode
from callcast.observability import logs

F = TypeVar("F", bound=asyncio.Future[Any])
T = TypeVar("T")


def end(error: BaseException) -> None:
    """Log the traceback and exit. Does not return."""
    try:
        logs.show_trace(type(error), error, error.__traceback__)
        logs.flush()
    finally:
        os._exit(ExitCode.BUG)


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """End the process on an error in a callback of this loop, in a task that is not awaited, or in a thread."""
    loop.set_exception_handler(_in_loop)
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable


def observed(future: F) -> F:
    """Return the same task; an error in it ends the process. For tasks that are not awaited."""
    future.add_done_callback(_raise)
    return future


class Tasks(asyncio.TaskGroup):
    """A task group in which any error ends the process at once, since other tasks may wait for the failed one."""

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        return observed(super().create_task(coro, name=name, context=context))


def _raise(future: asyncio.Future[Any]) -> None:
    """Raise the error of a task in a callback, so that the exception handler of the event loop gets it."""
    if not future.cancelled():
        future.result()


def _in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException) and _is_fault(error, context):
        end(error)
    facts = {"detail": str(context.get("message")), "reason": "asyncio"}
    logs.bound().error(logs.LIBRARY, **facts, exc_info=error if isinstance(error, BaseException) else None)


def _is_fault(error: BaseException, context: dict[str, Any]) -> bool:
    """Errors in callbacks are faults. Other errors are not if they are network errors of connections that are no
    longer needed, or results of futures (not tasks) that were never read.
    """
    if "handle" in context:
        return True
    is_result = "future" in context and not isinstance(context["future"], asyncio.Task)
    return not is_result and not isinstance(error, OSError | aiohttp.ClientError)


def _in_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None:
        end(hook.exc_value)


def _unraisable(hook: "sys.UnraisableHookArgs") -> None:
    """Log an error in a finalizer; it has no further effect."""
    logs.bound().error(logs.LIBRARY, reason="unraisable", detail=str(hook.err_msg), exc_info=hook.exc_value)
