"""How events leave: CloudEvents (`cloudevents`), their JSON Schema (`event_schema`), AsyncAPI (`asyncapi`), webhook
signatures (`standard_webhooks`). Pure; phone numbers are redacted here and nowhere else.
"""
