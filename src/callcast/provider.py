"""The provider of calls. No module but this one, the simulator and tests names its package.

A second provider would be added here: its settings as a second model of a source, its access beside this one.
"""

from callcast.ringcentral.client import Client
from callcast.ringcentral.directory import Extension
from callcast.ringcentral.provider import RingCentral as Provider
from callcast.ringcentral.settings import CYCLE_MAX_S, Plan, SourceSettings, plan, plan_fix

__all__ = ["CYCLE_MAX_S", "Client", "Extension", "Plan", "Provider", "SourceSettings", "plan", "plan_fix"]
