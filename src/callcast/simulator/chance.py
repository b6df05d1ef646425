"""Random calls; the same seed gives the same ones."""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random

from callcast.simulator.script import Account, Call, Chance, Handover, Kind

CALLERS = (
    ("WIRELESS CALLER", "San Mateo, CA"),
    ("NORTH HARBOR INN", "Portland, ME"),
    ("A. MILLER", "Boise, ID"),
    ("GREEN LEAF FOODS", "Eugene, OR"),
    ("R. OKAFOR", "Austin, TX"),
    ("BAY PRINTING", "Oakland, CA"),
    (None, "Denver, CO"),
    (None, None),
)
# How often each kind comes, in a hundred calls.
KINDS: tuple[tuple[Kind, int], ...] = (
    ("inbound", 38),
    ("queue", 24),
    ("outbound", 24),
    ("internal", 10),
    ("ringout", 3),
    ("conference", 1),
)
INBOUND_ENDS = ("missed", "missed", "voicemail", "hung_up", "declined")
OUTBOUND_ENDS = ("no_answer", "no_answer", "busy", "cancelled", "failed", "wrong_number")
ANSWERED_SHARE = 0.75


def random_calls(account: Account, chance: Chance, seed: int, scripted: Iterable[Call] = ()) -> Iterator[Call]:
    """An endless sequence of calls, ordered by start. A busy phone, also with a `scripted` call, is not called."""
    dice = Random(seed)  # noqa: S311 (chance, not secrecy)
    busy = {phone: call.at_s + _lasts_s(call) for call in scripted for phone in _phones(call)}
    free_at = [(busy.get(phone.number, 0.0), dice.random(), phone.number) for phone in account.extensions]
    heapify(free_at)  # the phone that has been free the longest comes first
    at_s = chance.from_s
    for number in count(1):
        at_s += dice.expovariate(chance.calls_per_minute / 60)
        phones = [heappop(free_at) for _ in range(min(3, len(free_at)))]
        at_s = max(at_s, phones[0][0])
        ready = [phone for free_s, _, phone in phones if free_s <= at_s]
        call = _call(account, chance, dice, at_s, ready, number)
        busy_until_s = at_s + _lasts_s(call) + 2
        for free_s, tie, phone in phones:
            taken = phone in _phones(call)
            heappush(free_at, (busy_until_s if taken else free_s, dice.random() if taken else tie, phone))
        yield call


def _call(account: Account, chance: Chance, dice: Random, at_s: float, ready: list[str], number: int) -> Call:
    kinds = [(kind, weight) for kind, weight in KINDS if kind != "queue" or account.queues]
    kind = dice.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
    if kind == "internal" and len(ready) < 2:
        kind = "inbound"
    name, location = dice.choice(CALLERS)
    answered = kind == "conference" or dice.random() < ANSWERED_SHARE
    ends = None if answered else dice.choice(OUTBOUND_ENDS if kind in ("outbound", "ringout") else INBOUND_ENDS)
    if kind == "queue" and ends == "declined":
        ends = "missed"
    talks_s = round(2 + dice.expovariate(1 / chance.talks_s), 1) if answered else None
    handed_on = kind == "inbound" and answered and len(ready) > 1 and dice.random() < 0.1
    return Call(
        at_s=at_s,
        kind=kind,
        extension=ready[0],
        to=ready[1] if kind == "internal" else None,
        number=_number(number) if kind != "internal" else None,
        name=name if kind in ("inbound", "queue") else None,
        location=location if kind != "internal" else None,
        queue=dice.choice(account.queues).name if kind == "queue" else None,
        offers=(tuple(ready),) if kind == "queue" else (),
        rings_s=round(chance.rings_s * dice.uniform(0.5, 1.5), 1),
        answers_after_s=round(chance.rings_s * dice.uniform(0.3, 0.9), 1),
        talks_s=talks_s,
        ends=ends,
        records_s=round(dice.uniform(3, 15), 1) if ends == "voicemail" else 0,
        transfer=Handover(to=ready[1], talks_s=round(chance.talks_s, 1)) if handed_on else None,
    )


def _phones(call: Call) -> set[str]:
    named = (call.extension, call.to, call.transfer.to if call.transfer else None)
    return {phone for phone in named if phone} | {phone for offered in call.offers for phone in offered}


def _lasts_s(call: Call) -> float:
    rings_s = call.rings_s * max(len(call.offers), 1) + (call.waits_s if call.kind == "queue" else 0)
    onward_s = call.transfer.rings_s + (call.transfer.talks_s or 0) if call.transfer else 0
    return rings_s * (2 if call.kind == "ringout" else 1) + (call.talks_s or 0) + call.records_s + onward_s


def _number(number: int) -> str:
    """A number of the range 555-01, which is reserved for fiction."""
    return f"+1555010{1_000 + number % 9_000}"
