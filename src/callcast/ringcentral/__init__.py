"""Everything that knows RingCentral. Its words stop here."""
