"""What a method is, as values: the table, the parts it is made of, and their settings. Needs no torch."""
