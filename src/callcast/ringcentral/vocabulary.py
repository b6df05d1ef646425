"""The platform's words and what they mean, as tables that can be compared with the API's description.

Words are compared without case: "Hang up" was seen beside "Hang Up". The lists are those of the API description of
2026-08-13; words that were only seen in answers, or were removed from the list, are listed separately.
"""

from collections.abc import Iterable, Mapping

from callcast.calls.model import AS_INBOUND, Disposition

_D = Disposition

IN_PROGRESS = frozenset({"in progress", "resultinprogress"})

# An answered call, or one that is being answered: without a duration the call goes on.
CONNECTED = frozenset({"accepted", "call connected", "call accepted"})

# Written at the end of a phone's ringing, and also over a call that goes on elsewhere.
PROVISIONAL = frozenset({"stopped", "ip phone offline"})

# A phone's ringing is over, for whatever reason. It says nothing about the call.
STOPPED = "stopped"

# On a record or a leg: the two sides talk. "Connected" does not mean that: the platform writes it when a call was
# picked up without a choice how to handle it, as by a voice mail.
ACCEPTED = "accepted"

RESULTS: Mapping[Disposition, tuple[str, ...]] = {
    _D.ANSWERED: ("Accepted", "Call connected"),
    _D.MISSED: ("Missed", "No Answer", "Answered Not Accepted"),
    _D.ABANDONED: ("Abandoned",),
    _D.VOICEMAIL: ("Voicemail", "Sent to Voicemail"),
    _D.BUSY: ("Busy",),
    _D.DECLINED: ("Declined", "Rejected"),
    _D.BLOCKED: (
        "Blocked",
        "Restricted Number",
        "Not Allowed",
        "International Disabled",
        "International Restricted",
    ),
    _D.ANSWERED_ELSEWHERE: ("Answered Elsewhere", "Stopped"),
    _D.CANCELLED: ("Hang Up",),
    _D.FAILED: (
        "Call Failed",
        "Call Failure",
        "Internal Error",
        "Wrong Number",
        "IP Phone Offline",
        "No Calling Credit",
        "Carrier is not active",
        "EDGE trunk misconfigured",
        "Suspended account",
    ),
    _D.FAX: (
        "Fax Not Sent",
        "Fax Partially Sent",
        "Fax Poor Line",
        "Fax Receipt Error",
        "Fax on Demand",
        "Partial Receive",
        "Receive Error",
        "Received",
        "Send Error",
        "Sent",
    ),
    _D.UNKNOWN: (
        "In Progress",
        "Unknown",
        "911",
        "933",
        "Callback requested",
        "Phone Login",
        "Reply",
    ),
}

RESULTS_OFF_LIST: Mapping[Disposition, tuple[str, ...]] = {
    _D.ANSWERED: ("Call accepted",),
    _D.FAX: ("Fax Receipt", "Fax Send Error", "No fax machine", "Poor Line Quality"),
    _D.UNKNOWN: ("Disconnected", "ResultEmpty", "ResultInProgress", "Ringing Elsewhere"),
}

DIRECTIONS = ("Inbound", "Outbound")

TYPES = ("Voice", "Fax")

ACTIONS = (
    "Accept Call",
    "Barge In Call",
    "Call Park",
    "Call Return",
    "CallOut-CallMe",
    "Calling Card",
    "Conference Call",
    "Emergency",
    "External Application",
    "FindMe",
    "FollowMe",
    "FreeSPDL",
    "Hunting",
    "Monitoring",
    "Move",
    "Park Location",
    "Phone Call",
    "Pickup",
    "RC Meetings",
    "Ring Directly",
    "RingMe",
    "RingOut Mobile",
    "RingOut PC",
    "RingOut Web",
    "Sip Forwarding",
    "Support",
    "Text Relay",
    "Transfer",
    "Unknown",
    "VoIP Call",
    "VoiceChat Call",
)

# These actions do not connect two parties, so they are not calls.
ACTIONS_WITHOUT_CALL = ("E911 Update", "Incoming Fax", "Outgoing Fax", "Paging", "Phone Login")

REASONS = (
    "Accepted",
    "Bad Number",
    "Call Loop",
    "Calls Not Accepted",
    "Carrier is not active",
    "Connected",
    "Customer 611 Restricted",
    "EDGE trunk misconfigured",
    "Emergency Address not defined",
    "Failed Try Again",
    "Fax Not Received",
    "Fax Not Sent",
    "Fax Partially Sent",
    "Fax Poor Line",
    "Fax Prepare Error",
    "Fax Save Error",
    "Fax Send Error",
    "Hang Up",
    "Info 411 Restricted",
    "Internal Call Error",
    "Internal Error",
    "International Disabled",
    "International Restricted",
    "Line Busy",
    "Max Call Limit",
    "No Answer",
    "No Credit",
    "No Digital Line",
    "Not Answered",
    "Number Blocked",
    "Number Disabled",
    "Number Not Allowed",
    "Receive Error",
    "Resource Error",
    "Restricted Number",
    "Stopped",
    "Too Many Calls",
    "Unknown",
    "Wrong Number",
)

# Legs that the platform places towards a phone of the company: the phone rings.
RING_OUT_LEGS = ("PstnToSip", "SipToSip")

# A person listens to the conversation of others.
LISTENING_LEGS = ("Monitoring", "SilentMonitoring")

OTHER_LEGS = (
    "Accept",
    "CallBack",
    "CallMeCallOut",
    "CallPark",
    "CallingCard",
    "ConferenceCall",
    "ExtensionToExtension",
    "FaxSent",
    "FindMe",
    "FollowMe",
    "Hunting",
    "ImsCall",
    "IvaCall",
    "JoinCall",
    "MeetingsCall",
    "MobileApp",
    "MoveToConference",
    "OutgoingFreeSpDl",
    "PagingServer",
    "ParkLocation",
    "Pickup",
    "RingDirectly",
    "RingMe",
    "RingOutClientToCaller",
    "RingOutClientToSubscriber",
    "RingOutDeviceToCaller",
    "RingOutDeviceToSubscriber",
    "RingOutOneLegToCaller",
    "RingOutWebToCaller",
    "RingOutWebToSubscriber",
    "ServiceMinus2",
    "ServiceMinus3",
    "SipForwarding",
    "SipToPstnMetered",
    "SipToPstnUnmetered",
    "TestCall",
    "TextRelay",
    "TransferCall",
    "Unknown",
    "VoiceChat",
)

# A call that the platform places for an extension, first to its own phone, then to the other side: how its actions and
# its legs begin, and how a leg to the own phone ends ("RingOutWebToCaller").
RINGOUT = "ringout"
RINGOUT_OWN_PHONE = "tocaller"

# The leg to what was called: it is accepted when any phone takes the call.
LINE_LEG = "accept"

# The call is handed on, and leaves the extension.
TRANSFER_LEG = "transfercall"

DELEGATIONS = ("Coworker", "QueueForwarding", "Unknown")


def folded(words: Iterable[str]) -> frozenset[str]:
    """Return the words as they are compared."""
    return frozenset(word.lower() for word in words)


DISPOSITIONS: Mapping[str, Disposition] = {
    word.lower(): disposition
    for table in (RESULTS, RESULTS_OFF_LIST)
    for disposition, words in table.items()
    for word in words
}

SPELLED: Mapping[str, tuple[str, ...]] = {
    "type": TYPES,
    "direction": DIRECTIONS,
    "action": (*ACTIONS, *ACTIONS_WITHOUT_CALL),
    "result": tuple(word for table in (RESULTS, RESULTS_OFF_LIST) for words in table.values() for word in words),
    "reason": REASONS,
    "legType": (*RING_OUT_LEGS, *LISTENING_LEGS, *OTHER_LEGS),
    "delegationType": DELEGATIONS,
}

KNOWN: Mapping[str, frozenset[str]] = {field: folded(words) for field, words in SPELLED.items()}


def disposition(word: str, *, inbound: bool) -> Disposition:
    """Return the disposition of a call that ended with this (folded) result."""
    found = DISPOSITIONS.get(word, _D.UNKNOWN)
    if inbound:
        return AS_INBOUND.get(found, found)
    return _D.NO_ANSWER if found is _D.MISSED else found
