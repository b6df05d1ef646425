"""What consumers get: its types (`payloads`), events and calls as JSON (`cloudevents`), JSON Schema (`event_schema`),
AsyncAPI (`asyncapi`), webhook signatures (`standard_webhooks`). Pure. Phone numbers in events are redacted only here.
"""
