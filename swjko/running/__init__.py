"""Running schemes: one flow or many, in compiled chunks, with the host in between."""
