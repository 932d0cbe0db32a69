"""Images generated from a data set, with their scores."""
