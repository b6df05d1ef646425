"""callcast forwards RingCentral call events to webhooks, MQTT and stdout."""

__version__ = "0.1.0"
