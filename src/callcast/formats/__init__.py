"""Event formats: CloudEvents (`cloudevents`), their JSON Schema (`event_schema`), AsyncAPI (`asyncapi`), webhook
signatures (`standard_webhooks`). Pure. Phone numbers in events are redacted only here.
"""
