"""What the sources of an account learn of one another's answers."""

from itertools import permutations

import msgspec
import pytest

from callcast.calls import shared_answers as answers_module
from callcast.calls.model import Call, Disposition, State
from callcast.calls.shared_answers import SharedAnswers
from tests.builders import NINE, call


def missed(extension_id: str, source: str, **facts: object) -> Call:
    ended = call("s-1", state=State.ENDED, source=source)
    base = {"extension_id": extension_id, "call_id": f"{extension_id}/s-1", "disposition": Disposition.MISSED}
    return msgspec.structs.replace(ended, **base | facts)


def talking(extension_id: str, source: str, **facts: object) -> Call:
    live = call("s-1", state=State.CONNECTED, source=source)
    base = {"extension_id": extension_id, "call_id": f"{extension_id}/s-1", "answered_at": NINE}
    return msgspec.structs.replace(live, **base | facts)


@pytest.fixture
def answers() -> SharedAnswers:
    made = SharedAnswers()
    made.shared = True
    return made


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_every_miss_is_named_in_whatever_order_they_are_learnt(answers: SharedAnswers, order: tuple[int, ...]) -> None:
    """Once per session and source, until it is done; learning it again names it again."""
    calls = [missed("101", "one"), talking("102", "two"), missed("103", "three"), missed("104", "three")]
    answers.learn(calls[number] for number in order)
    assert (answers.due("one"), answers.due("two"), answers.due("three")) == (("s-1",), (), ("s-1",))
    answers.corrected("one", "s-1")
    assert answers.due("one") == ()
    assert answers.of("809646016", "s-1") == {"102"}


@pytest.mark.parametrize(
    "other",
    [
        talking("101", "two"),  # its own other part
        talking("102", "two", account_id="1"),
        talking("102", "two", account_id=None),
        talking("102", "two", session_id="s-2"),
        talking("102", "two", answered_at=None),
        talking("unassigned", "two"),
    ],
)
def test_only_an_answer_of_another_extension_in_the_session_counts(answers: SharedAnswers, other: Call) -> None:
    answers.learn([missed("101", "one"), other, missed("101", "one")])
    assert answers.due("one") == ()


def test_a_corrected_session_is_not_due_again(answers: SharedAnswers) -> None:
    answers.learn([missed("101", "one"), talking("102", "two")])
    answers.corrected("one", "s-1")
    answers.learn([missed("101", "one", disposition=Disposition.ANSWERED_ELSEWHERE)])
    answers.learn([talking("103", "two")])
    assert answers.due("one") == ()


def test_a_bounded_number_of_sessions_is_remembered(answers: SharedAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest; and none where there is one source only."""
    monkeypatch.setattr(answers_module, "SESSIONS_MAX", 3)
    answers.learn(talking("102", "two", session_id=f"s-{number}") for number in range(10))
    known = [number for number in range(10) if answers.of("809646016", f"s-{number}")]
    assert known == [7, 8, 9]
    alone = SharedAnswers()
    alone.learn([missed("101", "one"), talking("102", "two")])
    assert not alone.of("809646016", "s-1")
    assert alone.due("one") == ()
