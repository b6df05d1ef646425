"""Random histories of telephone calls: what truly happens, and what the platform lists of it at any moment.

A `Part` is one extension's part in a session. Its steps say from when on which records stand in the list and what
they show of the part. Everything the platform does to mislead is here: ids and start times that change, records
that linger, vanish, come back, come late, or read ended while the call goes on.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ACCOUNT = "400000000001"
EXTENSIONS = ("101", "102", "103", "104")
CALLER = "+15550100351"
LINE = "900"  # rings them all

Json = dict[str, Any]


@dataclass
class Step:
    """From `at` (seconds) on, `records` stand in the list, and show the part as `shows`.

    named: they name its extension; where they do not, they show it only if they did before.
    """

    at: float
    records: tuple[Json, ...]
    shows: str | None
    named: bool = True


@dataclass
class Part:
    """`unseen`: how it ends, as far as can be known, if neither its answer nor that it is inbound was ever shown.
    `record_ends_at`: when its record is over, if that is later than the part. `named`: its final record names its
    extension.
    """

    extension_id: str
    inbound: bool
    ends_at: float
    disposition: str
    answered_at: float | None
    record_ids: set[str]
    final: Json
    steps: list[Step] = field(default_factory=list)
    provisional: str | None = None
    unseen: str | None = None
    record_ends_at: float | None = None
    named: bool = True

    @property
    def logged_at(self) -> float:
        return self.record_ends_at or self.ends_at

    def step_at(self, t: float) -> Step | None:
        found = None
        for step in self.steps:
            if step.at > t:
                break
            found = step
        return found


@dataclass
class History:
    """`blind`: no poll between these two times. `turned_at`: from then on it is watched the other way.

    own_sources: each extension is watched by a credential of its own, one after another.
    """

    account_level: bool
    parts: list[Part]
    noise: list[Json]
    blind: tuple[float, float] | None = None
    turned_at: float | None = None
    own_sources: bool = False

    def listed(self, extension_id: str | None, t: float) -> list[Json]:
        records: dict[str, Json] = {}
        for part in self.parts:
            if extension_id in (None, part.extension_id) and (step := part.step_at(t)) is not None:
                records.update({record["id"]: record for record in step.records})
        return [*records.values(), *self.noise]


def stamp(t: float) -> str:
    at = START + timedelta(seconds=t)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Maker:
    """Makes one history from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.serial = 0
        self.blind: tuple[float, float] | None = None

    def history(self) -> History:
        random = self.random
        account_level = random.random() < 0.4
        turned_at = random.uniform(5, 90) if random.random() < 0.15 else None
        kinds = [self.direct, self.direct, self.outbound, self.queue, self.ring_all, self.transfer, self.conference]
        kinds += [self.ring_out, self.offered_again, self.stopped, self.stopped_but_live, self.hidden_first]
        kinds += [self.flipped, self.flipped_late, self.claimed, self.taken_over, self.denied, self.fan_out]
        kinds += [self.ringout_web, self.side_tells]
        kinds += [self.through_menu] if account_level or turned_at else []
        if account_level and not turned_at:
            kinds += [self.shared_line, self.handed_to_phone, self.unnamed_end, self.hunt]
        parts: list[Part] = []
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            parts += random.choice(kinds)(random.uniform(0, 40))
        noise = [self.fax(), self.paging()] if random.random() < 0.1 else []
        if self.blind is None and random.random() < 0.15:
            starts = random.uniform(20, 100)
            self.blind = (starts, starts + random.uniform(60, 280))
        own_sources = not account_level and turned_at is None and random.random() < 0.3
        return History(account_level, parts, noise, self.blind, turned_at, own_sources)

    # Records

    def new_id(self, prefix: str) -> str:
        self.serial += 1
        return f"{prefix}{self.serial}x{self.random.getrandbits(40):x}"

    def record(self, start: float, session: Json, extension_id: str, **fields: Any) -> Json:
        return {
            "id": self.new_id("L"),
            "uri": f"https://platform.example.com/restapi/v1.0/account/{ACCOUNT}/call-log/x",
            "startTime": stamp(start),
            "type": "Voice",
            "extension": {"id": int(extension_id)},
            **session,
            **fields,
        }

    def session(self) -> Json:
        modern = {"sessionId": self.new_id("5"), "telephonySessionId": self.new_id("s-")}
        old = {"sessionId": self.new_id("5")}
        conference = {"sessionId": "0", "telephonySessionId": self.new_id("s-")}
        return self.random.choice((modern, modern, modern, old, conference))

    def fax(self) -> Json:
        return self.record(3, self.session(), "101", **{**INBOUND, "type": "Fax", "result": "In Progress"})

    def paging(self) -> Json:
        return self.record(3, self.session(), "101", **{**INBOUND, "action": "Paging", "result": "In Progress"})

    # Kinds of calls

    def direct(self, start: float, session: Json | None = None, extension_id: str | None = None) -> list[Part]:
        """Inbound: rings, then is answered or not."""
        extension_id = extension_id or self.random.choice(EXTENSIONS)
        base = self.record(start, session or self.session(), extension_id, **INBOUND)
        return [self.rung(start, base, extension_id)]

    def rung(
        self,
        start: float,
        base: Json,
        extension_id: str,
        *,
        answer: bool | None = None,
        owner: str | None = "",
        after: str = "Accepted",
        handed_to: str | None = None,
        keeps_legs: bool = True,
    ) -> Part:
        """`owner`: whose the legs are by their own word. `after`: what the record of an answered call reads at its
        end, with a leg to the extension that it was handed to, or without any.
        """
        random = self.random
        ring = random.randrange(1, 30)
        owner = extension_id if owner == "" else owner
        accept = leg("Accept", start, owner, "Inbound")
        ringing = {**base, "result": "In Progress", "legs": [accept]}
        if answer if answer is not None else random.random() < 0.6:
            end = start + ring + random.randrange(1, 90)
            phone = leg("PstnToSip", start + ring, owner, "Outbound", reason="Accepted")
            talking = {**base, "result": "In Progress", "legs": [accept, phone]}
            final = {**base, "result": after, "duration": int(end - start)}
            if after == "Accepted":
                final |= {"reason": "Accepted", "legs": [{**accept, "reason": "Accepted"}, phone]}
            elif keeps_legs:
                final["legs"] = [accept | {"result": after}, phone]
            if handed_to is not None:
                final["legs"].append(away(end, extension_id, handed_to))
            shows = [(start, ringing, "ringing"), (start + ring, talking, "connected")]
            return self.part(extension_id, shows, final, end, "answered", answered_at=start + ring)
        word, disposition = random.choice(UNANSWERED_INBOUND)
        final = {**ringing, "result": word, "duration": ring}
        return self.part(extension_id, [(start, ringing, "ringing")], final, start + ring, disposition)

    def outbound(self, start: float, session: Json | None = None, extension_id: str | None = None) -> list[Part]:
        random = self.random
        extension_id = extension_id or random.choice(EXTENSIONS)
        base = self.record(start, session or self.session(), extension_id, **OUTBOUND)
        line = leg("SipToPstnUnmetered", start, extension_id, "Outbound")
        dialing = {**base, "result": "In Progress", "legs": [line]}
        ring = random.randrange(1, 20)
        if random.random() < 0.6:
            end = start + ring + random.randrange(1, 60)
            talking = {**base, "result": "In Progress", "reason": "Accepted", "legs": [line]}
            final = {**base, "result": "Call connected", "duration": int(end - start), "legs": [line]}
            shows = [(start, dialing, "dialing"), (start + ring, talking, "connected")]
            return [self.part(extension_id, shows, final, end, "answered", inbound=False, answered_at=start + ring)]
        word, disposition = random.choice(UNANSWERED_OUTBOUND)
        final = {**dialing, "result": word, "duration": ring}
        return [self.part(extension_id, [(start, dialing, "dialing")], final, start + ring, disposition, inbound=False)]

    def queue(self, start: float, session: Json | None = None, extension_id: str | None = None) -> list[Part]:
        """Reads Outbound, own side on both, until it is over (seed-queue-*)."""
        random = self.random
        extension_id = extension_id or random.choice(EXTENSIONS)
        base = self.record(start, session or self.session(), extension_id)
        out = {**base, **offered_to(extension_id), "result": "In Progress"}
        phone = leg("PstnToSip", start, extension_id, "Outbound", action="VoIP Call")
        ring, end = random.randrange(1, 20), start + random.randrange(21, 90)
        back = {**base, **INBOUND, "from": {"name": "Sales - JANE DOE", "phoneNumber": CALLER}}
        ringing = {**out, "legs": [phone]}
        if random.random() < 0.6:
            accepted = {**phone, "reason": "Accepted"}
            talking = {**out, "reason": "Accepted", "legs": [accepted]}
            legs = [leg("Accept", start, extension_id, "Inbound", reason="Accepted"), accepted]
            final = {**back, "result": "Accepted", "reason": "Accepted", "duration": int(end - start), "legs": legs}
            shows = [(start, ringing, "ringing"), (start + ring, talking, "connected")]
            return [self.part(extension_id, shows, final, end, "answered", answered_at=start + ring)]
        word, disposition = random.choice(UNANSWERED_INBOUND)
        legs = [leg("Accept", start, extension_id, "Inbound"), phone]
        final = {**back, "result": word, "duration": ring, "legs": legs}
        return [self.part(extension_id, [(start, ringing, "ringing")], final, start + ring, disposition)]

    def ring_all(self, start: float) -> list[Part]:
        """Several extensions ring; at most one answers."""
        session = self.session() | {"telephonySessionId": self.new_id("s-")}
        chosen = self.random.sample(EXTENSIONS, self.random.randrange(2, 4))
        answering = self.random.choice([*chosen, None])
        parts = []
        for extension_id in chosen:
            base = self.record(start, session, extension_id, **INBOUND)
            parts.append(self.rung(start, base, extension_id, answer=extension_id == answering))
        return parts

    def transfer(self, start: float) -> list[Part]:
        """One extension answers and hands over; the session goes on at another."""
        session = self.session() | {"telephonySessionId": self.new_id("s-")}
        first, second = self.random.sample(EXTENSIONS, 2)
        here = self.rung(start, self.record(start, session, first, **INBOUND), first, answer=True)
        return [here, *self.direct(here.ends_at, session, second)]

    def conference(self, start: float) -> list[Part]:
        """Every conference has session id "0": two at once are two sessions."""
        parts = []
        for extension_id in self.random.sample(EXTENSIONS, 2):
            session = {"sessionId": "0"} | (
                {"telephonySessionId": self.new_id("s-")} if self.random.random() < 0.5 else {}
            )
            parts += self.outbound(start, session, extension_id)
        return parts

    def ring_out(self, start: float) -> list[Part]:
        """Two records, two sessions, opposite directions: two calls."""
        extension_id = self.random.choice(EXTENSIONS)
        number = self.random.randrange(10**9)
        one, two = {"sessionId": str(number)}, {"sessionId": str(number + 1000)}
        return [*self.direct(start, one, extension_id), *self.outbound(start + 2, two, extension_id)]

    def offered_again(self, start: float) -> list[Part]:
        """The same extension is offered the same call again: the next part."""
        session = self.session() | {"telephonySessionId": self.new_id("s-")}
        extension_id = self.random.choice(EXTENSIONS)
        base = self.record(start, session, extension_id, **INBOUND)
        one = self.rung(start, base, extension_id, answer=False)
        ringing = one.steps[0].records
        one.steps = [Step(start, ringing, "ringing"), Step(one.ends_at, (one.final,), "ended")]  # to stay
        again = one.ends_at + self.random.randrange(1, 10)
        two = self.rung(again, self.record(again, session, extension_id, **INBOUND), extension_id)
        return [one, two]

    def hidden_first(self, start: float) -> list[Part]:
        """A part that came and went while it was not polled; the extension has the call again when it is.

        In between another extension may have had it: transferred, and transferred back.
        """
        if self.blind is not None:
            return self.offered_again(start)
        random = self.random
        session = self.session() | {"telephonySessionId": self.new_id("s-")}
        here, there = random.sample(EXTENSIONS, 2)
        parts = [self.rung(start, self.record(start, session, here, **INBOUND), here)]
        if random.random() < 0.5:
            handed = parts[0].ends_at + random.randrange(3)
            parts.append(self.rung(handed, self.record(handed, session, there, **INBOUND), there))
        again = parts[-1].ends_at + random.randrange(10)
        back = self.rung(again, self.record(again, session, here, **INBOUND), here)
        seen_from = again
        for part in parts:
            gone = max(step.at for step in part.steps if step.at < part.ends_at + 14) + random.uniform(0.1, 5)
            part.steps = [*(step for step in part.steps if step.at < gone), Step(gone, (), None)]
            seen_from = max(seen_from, gone)
        self.blind = (start - 10, seen_from + random.uniform(0, 20))
        return [*parts, back]

    def flipped(self, start: float) -> list[Part]:
        """Taken or not in a browser: the final record reads Outbound towards the caller."""
        part = self.direct(start, self.modern())[0]
        self.flip(part, part.steps)
        return [part]

    def flipped_late(self, start: float) -> list[Part]:
        """The end reads Inbound at first, and is rewritten while it lingers."""
        part = self.direct(start, self.modern())[0]
        ends = next(i for i, step in enumerate(part.steps) if step.shows == "ended")
        later = part.steps[ends].at + self.random.uniform(0, 30)
        part.steps = [*part.steps[: ends + 1], *(step for step in part.steps[ends + 1 :] if step.at > later)]
        part.steps.insert(ends + 1, Step(later, part.steps[ends].records, "ended"))
        self.flip(part, part.steps[ends + 1 :])
        return [part]

    def flip(self, part: Part, steps: list[Step]) -> None:
        turned = {**OUTBOUND_OF_FLIPPED, "result": FLIPPED_RESULTS.get(part.final["result"], part.final["result"])}
        part.final = {name: value for name, value in (part.final | turned).items() if name not in ("legs", "reason")}
        for step in steps:
            if step.shows == "ended":
                step.records = (part.final,)
        part.unseen = AS_OUTBOUND.get(part.disposition, part.disposition)

    def claimed(self, start: float) -> list[Part]:
        """Another extension took the call while it rang here; this record reads missed, with the other's leg."""
        session = self.modern()
        here, there = self.random.sample(EXTENSIONS, 2)
        base = self.record(start, session, here, **INBOUND)
        ring = self.random.randrange(1, 20)
        accept = leg("Accept", start, here, "Inbound")
        ringing = {**base, "result": "In Progress", "legs": [accept]}
        final = {
            **base,
            "result": self.random.choice(("Missed", "No Answer", "Stopped", "Voicemail")),
            "duration": ring,
        }
        final["legs"] = [{**accept, "result": final["result"]}, away(start + ring, here, there)]
        shows = [(start, ringing, "ringing")]
        part = self.part(here, shows, final, start + ring, "answered_elsewhere", keeps_legs=True)
        if self.random.random() < 0.5:
            return [part]
        return [part, self.rung(start + ring, self.record(start + ring, session, there, **INBOUND), there, answer=True)]

    def taken_over(self, start: float) -> list[Part]:
        """Answered here, and then another extension's: whatever the record says, it was answered."""
        here, there = self.random.sample(EXTENSIONS, 2)
        base = self.record(start, self.modern(), here, **INBOUND)
        return [self.rung(start, base, here, answer=True, after=self.random.choice(DENIALS), handed_to=there)]

    def denied(self, start: float) -> list[Part]:
        """Answered, and the record at the end knows nothing of it."""
        extension_id = self.random.choice(EXTENSIONS)
        base = self.record(start, self.modern(), extension_id, **INBOUND)
        word, disposition = self.random.choice(UNANSWERED_INBOUND)
        part = self.rung(start, base, extension_id, answer=True, after=word, keeps_legs=False)
        part.unseen = disposition
        return [part]

    def fan_out(self, start: float) -> list[Part]:
        """A shared line rings several phones; the one that is taken says so by its result alone."""
        random = self.random
        extension_id = random.choice(EXTENSIONS)
        owner = random.choice((extension_id, None))
        base = self.record(start, self.modern(), extension_id, **INBOUND)
        ring, talk = random.randrange(3, 20), random.randrange(5, 60)
        accept = leg("Accept", start, extension_id, "Inbound", result="In Progress", master=True)
        phones = [
            leg("PstnToSip", start + 2, owner, "Outbound", result="In Progress", to={"extensionNumber": number})
            for number in ("2", "13", "8")
        ]
        over = [
            phone | {"result": random.choice(("Stopped", "IP Phone Offline")), "duration": ring} for phone in phones
        ]
        over[1] = phones[1] | {"result": "Call connected"}
        ringing = {**base, "result": "In Progress", "legs": [accept, *phones]}
        talking = {**base, "result": "In Progress", "legs": [accept, *over]}
        end = start + ring + talk
        final = {**base, "result": "Accepted", "duration": ring + talk}
        final["legs"] = [accept | {"result": "Accepted"}, over[0], over[1] | {"duration": talk}, over[2]]
        shows = [(start, ringing, "ringing"), (start + ring, talking, "connected")]
        return [self.part(extension_id, shows, final, end, "answered")]

    def ringout_web(self, start: float) -> list[Part]:
        """One record: first the own phone, which is no answer, then the other side."""
        random = self.random
        extension_id = random.choice(EXTENSIONS)
        base = self.record(start, self.modern(), extension_id, **OUTBOUND) | {"action": "RingOut Web"}
        own = leg("RingOutWebToCaller", start, extension_id, "Outbound", reason="Accepted", result="Call connected")
        other = leg("RingOutWebToSubscriber", start + 3, extension_id, "Outbound")
        live = random.choice(({"result": "In Progress"}, {"result": "Call connected", "duration": 0}))
        ring = random.randrange(4, 20)
        shows = [(start, {**base, **live, "legs": [own]}, "dialing")]
        shows += [(start + 3, {**base, **live, "legs": [own, other]}, "dialing")]
        if random.random() < 0.5:
            end = start + ring + random.randrange(1, 60)
            taken = other | random.choice(({"reason": "Accepted"}, {"result": "Call connected"}))
            shows += [(start + ring, {**base, **live, "legs": [own, taken]}, "connected")]
            final = {**base, "result": "Call connected", "duration": int(end - start), "legs": [own, taken]}
            return [self.part(extension_id, shows, final, end, "answered", inbound=False)]
        word, disposition = random.choice(UNANSWERED_OUTBOUND)
        final = {**base, "result": word, "duration": ring, "legs": [own, other | {"result": word}]}
        return [self.part(extension_id, shows, final, start + ring, disposition, inbound=False)]

    def side_tells(self, start: float) -> list[Part]:
        """Whose it is stands on the own side alone."""
        extension_id = self.random.choice(EXTENSIONS)
        own_side = {"phoneNumber": "+15550100901", "extensionId": self.random.choice((extension_id, int(extension_id)))}
        base = self.record(start, self.modern(), extension_id, **INBOUND) | {"to": own_side}
        del base["extension"]
        return [self.rung(start, base, extension_id, owner=None)]

    def shared_line(self, start: float) -> list[Part]:
        """The account's list: one record of a line, with a leg for each extension that it rings."""
        random = self.random
        first, second = random.sample(EXTENSIONS, 2)
        base = self.record(start, self.modern(), LINE, **INBOUND)
        ring, talk = random.randrange(3, 20), random.randrange(5, 60)
        accept = leg("Accept", start, LINE, "Inbound", result="In Progress", master=True)
        rings = [leg("PstnToSip", start + 2, id_, "Outbound", result="In Progress") for id_ in (first, second)]
        stops = [phone | {"result": "Stopped", "duration": ring - 2} for phone in rings]
        ringing = {**base, "result": "In Progress", "legs": [accept, *rings]}
        shows = [(start, ringing, "ringing")]
        if random.random() < 0.3:
            final = {**base, "result": "Missed", "duration": ring, "legs": [accept | {"result": "Missed"}, *stops]}
            main = self.part(first, shows, final, start + ring, "missed", keeps_legs=True)
            return [main, self.beside(main, second, "missed", {}), self.beside(main, LINE, "missed", {})]
        taken = rings[0] | {"reason": "Accepted"}
        end = start + ring + talk
        shows += [(start + ring, {**ringing, "legs": [accept, taken, stops[1]]}, "connected")]
        final = {**base, "result": "Accepted", "duration": ring + talk}
        taken = taken | {"result": "Accepted", "duration": ring + talk - 2}
        final["legs"] = [accept | {"result": "Accepted", "duration": ring + talk}, taken, stops[1]]
        main = self.part(first, shows, final, end, "answered", keeps_legs=True)
        other = self.beside(main, second, "answered_elsewhere", {"connected": "ended"}, ends_at=start + ring)
        return [main, other, self.beside(main, LINE, "answered_elsewhere", {"connected": "ringing"})]

    def handed_to_phone(self, start: float) -> list[Part]:
        """The account's list: only the called side says whose the record is, until its legs name who is rung."""
        base = self.record(start, self.modern(), LINE, **INBOUND) | {"to": self.random.choice((LINE_SIDE, {}))}
        del base["extension"]
        first = {**base, "result": "In Progress"}
        if not base["to"]:
            first["legs"] = [leg("PstnToSip", start, LINE, "Outbound")]
        return self.passed_on(start, base, first, LINE, self.random.choice(EXTENSIONS))

    def hunt(self, start: float) -> list[Part]:
        """The account's list: the leg of one phone gives way to that of the next."""
        base = self.record(start, self.modern(), LINE, **INBOUND)
        del base["extension"]
        here, there = self.random.sample(EXTENSIONS, 2)
        first = {**base, "result": "In Progress", "legs": [leg("PstnToSip", start, here, "Outbound")]}
        return self.passed_on(start, base, first, here, there)

    def passed_on(self, start: float, base: Json, first: Json, here: str, there: str) -> list[Part]:
        """A record that names one extension, and then only another, who takes the call or does not."""
        random = self.random
        turn = start + random.randrange(2, 15)
        ring, talk = random.randrange(2, 20), random.randrange(5, 60)
        phone = leg("PstnToSip", turn, there, "Outbound")
        ringing = {**base, "result": "In Progress", "legs": [phone]}
        shows = [(start, first, "first"), (turn, ringing, "ringing")]
        if random.random() < 0.4:
            end = turn + ring
            final = {**base, "result": "Missed", "duration": int(end - start)}
            final["legs"] = [phone | {"result": "Missed", "duration": ring}]
            main = self.part(there, shows, final, end, "missed", keeps_legs=True, keeps_id=True)
            other = self.beside(main, here, "missed", {"first": "ringing"})
        else:
            end = turn + ring + talk
            taken = phone | {"reason": "Accepted"}
            shows += [(turn + ring, {**ringing, "legs": [taken]}, "connected")]
            final = {**base, "result": "Accepted", "duration": int(end - start)}
            final["legs"] = [taken | {"result": "Accepted", "duration": ring + talk}]
            main = self.part(there, shows, final, end, "answered", keeps_legs=True, keeps_id=True)
            shown = {"first": "ringing", "connected": "ended"}
            other = self.beside(main, here, "answered_elsewhere", shown, ends_at=turn + ring)
        self.name_no_more(other, [step for step in other.steps if first not in step.records])
        main.steps = [Step(s.at, s.records, None if s.shows == "first" else s.shows) for s in main.steps]
        return [main, other]

    def unnamed_end(self, start: float) -> list[Part]:
        """The account's list: the final record names no extension, and is still that of its only part."""
        random = self.random
        extension_id = random.choice(EXTENSIONS)
        base = self.record(start, self.modern(), extension_id, **INBOUND)
        del base["extension"]
        by_side = random.random() < 0.5
        if by_side:
            base["to"] = {**LINE_SIDE, "extensionId": extension_id}
        part = self.rung(start, base, extension_id, owner=None if by_side else extension_id)
        if random.random() < 0.5:
            self.flip(part, part.steps)
        final = {name: value for name, value in part.final.items() if name != "legs"}
        if final["direction"] == "Inbound":
            final["to"] = {"phoneNumber": "+15550100901"}
        ends = [step for step in part.steps if step.shows == "ended"]
        for step in ends:
            step.records = (final,)
        part.final = final | {"id": self.first_id(part)}
        for step in ends:
            step.records = (part.final,)
        part.record_ids = {part.final["id"]}
        self.name_no_more(part, ends)
        return [part]

    def first_id(self, part: Part) -> str:
        """A record that names no extension has the id that it had before."""
        return str(part.steps[0].records[0]["id"])

    def name_no_more(self, part: Part, steps: list[Step]) -> None:
        part.named = False
        for step in steps:
            step.named = False

    def beside(
        self, main: Part, extension_id: str, disposition: str, shows: dict[str, str], *, ends_at: float | None = None
    ) -> Part:
        """Another extension's part of the same record."""
        steps = [Step(step.at, step.records, shows.get(step.shows or "", step.shows)) for step in main.steps]
        ends_at = main.ends_at if ends_at is None else ends_at
        part = Part(extension_id, True, ends_at, disposition, None, main.record_ids, main.final, steps)
        part.record_ends_at = main.ends_at
        return part

    def modern(self) -> Json:
        return self.session() | {"telephonySessionId": self.new_id("s-")}

    def stopped(self, start: float) -> list[Part]:
        """A ring-out that reads Stopped, and stays so."""
        return [self.stopped_part(start, None)]

    def stopped_but_live(self, start: float) -> list[Part]:
        """Reads Stopped while the call goes on; the same record is rewritten at the end, with an earlier start."""
        return [self.stopped_part(start, "answered")]

    def stopped_part(self, start: float, truth: str | None) -> Part:
        random = self.random
        extension_id = random.choice(EXTENSIONS)
        base = self.record(start, self.session(), extension_id, **offered_to(extension_id))
        phone = leg("PstnToSip", start, extension_id, "Outbound", action="VoIP Call")
        ring = random.randrange(1, 20)
        word, disposition = random.choice((("Stopped", "answered_elsewhere"), ("IP Phone Offline", "failed")))
        ringing = {**base, "result": "In Progress", "legs": [phone]}
        over = {**base, "result": word, "duration": ring, "legs": [{**phone, "result": word}]}
        shows = [(start, ringing, "ringing"), (start + ring, over, "provisional")]
        if truth is None:
            part = self.part(extension_id, shows, over, start + ring, disposition, final_shows="provisional")
        else:
            end = start + ring + random.randrange(5, 100)
            legs = [leg("Accept", start - 5, extension_id, "Inbound", reason="Accepted")]
            final = {**base, **INBOUND, "startTime": stamp(start - 5), "result": "Accepted", "legs": legs}
            final["duration"] = int(end - start + 5)
            part = self.part(extension_id, shows, final, end, "answered")
        part.provisional = disposition
        return part

    def through_menu(self, start: float) -> list[Part]:
        """Unassigned at first, then an extension's (account level)."""
        session = self.session() | {"telephonySessionId": self.new_id("s-")}
        extension_id = self.random.choice(EXTENSIONS)
        menu = self.record(start, session, "0", **INBOUND)
        del menu["extension"]
        live = {**menu, "result": "In Progress", "legs": [leg("Accept", start, None, "Inbound", reason="Accepted")]}
        wait = start + self.random.randrange(2, 20)
        owned = {**menu, "startTime": stamp(wait), "extension": {"id": int(extension_id)}}
        part = self.rung(wait, owned, extension_id)
        steps = [Step(start, (live,), "connected"), Step(part.steps[0].at, (), None)]
        unassigned = Part("unassigned", True, wait, "transferred", None, {menu["id"]}, live, steps)
        return [unassigned, part]

    # The platform's ways

    def part(
        self,
        extension_id: str,
        shows: list[tuple[float, Json, str]],
        final: Json,
        end: float,
        disposition: str,
        *,
        inbound: bool = True,
        answered_at: float | None = None,
        final_shows: str = "ended",
        keeps_legs: bool = False,
        keeps_id: bool = False,
    ) -> Part:
        random = self.random
        ids = {final["id"]}
        late = random.choice((0, 0, 0, random.uniform(0, 8)))
        steps = [Step(at + late, (record,), what) for at, record, what in shows if at <= end]
        if random.random() < 0.15:
            self.glitch(steps, end + late)
        ends = end + late + random.choice((0, random.uniform(0, 5)))
        named = final["sessionId"] != "0" or "telephonySessionId" in final  # else the id is all there is
        if random.random() < 0.15 and final_shows == "ended" and named and not keeps_id:  # jshelpers-lifecycle-2014
            final = {**final, "id": self.new_id("L")}
            ids.add(final["id"])
        if random.random() < 0.1:
            final.pop("legs", None) if answered_at is None and final_shows == "ended" and not keeps_legs else None
        steps.append(Step(ends, (final,), final_shows))
        self.leave(steps, ends, final, final_shows)
        if "telephonySessionId" not in final and len(ids) == 1 and random.random() < 0.3:
            final = self.name_late(steps, final)
        return Part(extension_id, inbound, end, disposition, answered_at, ids, final, steps)

    def name_late(self, steps: list[Step], final: Json) -> Json:
        """From some step on the record has the name of its session."""
        name = {"telephonySessionId": self.new_id("s-")}
        for step in steps[self.random.randrange(1, len(steps)) :]:
            step.records = tuple(record | name for record in step.records)
        return final | name

    def glitch(self, steps: list[Step], end: float) -> None:
        """Gone from the list for a while, although the call lives."""
        last = steps[-1]
        at, away = self.random.uniform(last.at, end), self.random.uniform(1, 25)
        if self.random.random() < 0.5:  # so long that the call log is read
            at, away = min(end, last.at + away / 5), away + 32
        back = at + away
        steps.append(Step(at, (), None))
        if back < end:
            steps.append(Step(back, last.records, last.shows))

    def leave(self, steps: list[Step], ends: float, final: Json, shows: str) -> None:
        """Lingers, leaves the list, and sometimes comes back for a moment."""
        gone = ends + self.random.choice((1.0, 20.0, 120.0, 302.0))
        steps.append(Step(gone, (), None))
        if self.random.random() < 0.1 and shows == "ended":
            steps.append(Step(gone + 10, (final,), shows))
            steps.append(Step(gone + 30, (), None))


def leg(leg_type: str, start: float, extension_id: str | None, direction: str, **fields: Any) -> Json:
    owner = {"extension": {"id": int(extension_id)}} if extension_id else {}
    return {"legType": leg_type, "startTime": stamp(start), "direction": direction, **owner, **fields}


def away(start: float, extension_id: str, to: str) -> Json:
    """A leg that takes the call to another extension."""
    side = {"phoneNumber": f"+1555010{to}0", "extensionNumber": to}
    return leg("TransferCall", start, extension_id, "Outbound", action="Transfer", reason="Accepted", to=side)


def offered_to(extension_id: str) -> Json:
    own = {"name": f"Agent {extension_id}", "extensionNumber": extension_id}
    to = {"phoneNumber": f"+1555010{extension_id}0", "extensionNumber": extension_id}
    return {"direction": "Outbound", "action": "VoIP Call", "from": own, "to": to}


INBOUND: Json = {
    "direction": "Inbound",
    "action": "Phone Call",
    "from": {"phoneNumber": CALLER, "name": "JANE DOE"},
    "to": {"phoneNumber": "+15550100901"},
}
LINE_SIDE: Json = {"phoneNumber": "+15550100901", "extensionId": LINE}
OUTBOUND: Json = {
    "direction": "Outbound",
    "action": "VoIP Call",
    "from": {"phoneNumber": "+15550100900", "name": "Rep One"},
    "to": {"phoneNumber": "+15550100360"},
}
OUTBOUND_OF_FLIPPED: Json = {
    "direction": "Outbound",
    "action": "VoIP Call",
    "from": {"phoneNumber": "+15550100901"},
    "to": {"phoneNumber": CALLER},
}
FLIPPED_RESULTS = {"Missed": "No Answer", "Accepted": "Call connected"}
AS_OUTBOUND = {"missed": "no_answer", "abandoned": "cancelled"}
DENIALS = ("Missed", "Stopped", "Voicemail", "Busy", "Hang Up", "No Answer", "Unheard Of")
UNANSWERED_INBOUND = (
    ("Missed", "missed"),
    ("Missed", "missed"),
    ("No Answer", "missed"),
    ("Answered Not Accepted", "missed"),
    ("Voicemail", "voicemail"),
    ("Hang Up", "abandoned"),
    ("hang up", "abandoned"),
    ("Rejected", "declined"),
    ("Unheard Of", "unknown"),
)
UNANSWERED_OUTBOUND = (
    ("No Answer", "no_answer"),
    ("Answered Not Accepted", "no_answer"),
    ("Busy", "busy"),
    ("Hang Up", "cancelled"),
    ("Wrong Number", "failed"),
    ("Not Allowed", "blocked"),
)
