"""docs/architecture.md lists the functions that a call passes today."""

import json
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE

from tests import ROOT

ATTEMPTS = 3  # what a thread does may differ once on a busy machine


async def test_the_listed_functions_are_those_that_a_call_passes() -> None:
    """After a change of them: python docs/make_trace.py."""
    differing = [""]
    for _ in range(ATTEMPTS):
        maker = await create_subprocess_exec(sys.executable, ROOT / "docs" / "make_trace.py", "--check", stdout=PIPE)
        printed, _ = await maker.communicate()
        differing = json.loads(printed)
        if not differing:
            break
    assert differing == []
