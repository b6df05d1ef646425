"""The domain model: what a call is and how it changes. Pure: no I/O, no clock, no vendor, no other package.

Reading order: `model` (the types), `lifecycle` (the state table), `matching` (which record belongs to which part),
`index` (what is known), `tracker` and `comparison` (compare a snapshot with the index), `events` and `ids`
(turn a change into an event), `sessions` (combine the parts of a conversation), `shared_answers`, `freshness`,
`summary`.
"""
