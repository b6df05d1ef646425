"""The domain: what a call is and how it changes. Pure: no I/O, no clock, no vendor, no other package of callcast.

Reading order: `model` (the types), `lifecycle` (the state table), `matching` (which record belongs to which part),
`index` (what is known), `tracker` and `comparison` (a snapshot against the index gives changes), `events` and `ids`
(changes become events), `sessions` (parts fold into a conversation), `shared_answers`, `freshness`, `summary`.
"""
