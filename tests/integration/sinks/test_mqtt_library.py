"""The MQTT library stays unchanged: a third-party sink may use it in the same process."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil
import paho.mqtt.client, paho.mqtt.matcher, paho.mqtt.properties, paho.mqtt.reasoncodes, paho.mqtt.subscribeoptions

def state():
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("paho.mqtt")]
    members = {}
    for module in modules:
        for name, value in vars(module).items():
            members[module.__name__, name] = value
            if isinstance(value, type) and value.__module__.startswith("paho."):
                members.update({(module.__name__, name, each): what for each, what in vars(value).items()})
    return members

import sys
before = state()
import callcast.sinks.mqtt
for each in pkgutil.iter_modules(callcast.sinks.mqtt.__path__):
    importlib.import_module(f"callcast.sinks.mqtt.{each.name}")
after = state()
changed = [name for name in before if before[name] is not after.get(name)]
print(changed)
"""


def test_no_class_of_the_library_is_changed() -> None:
    """Importing every module of the sink leaves each attribute of each of paho's modules and classes in place."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
