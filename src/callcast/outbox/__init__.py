"""The stores. A package for each implements `ports.outbox.Outbox` and `ports.outbox_admin.OutboxAdmin`.

`opening` chooses the store of a location; `claims` holds in memory, for any store, what each sink is to be sent next.
"""
