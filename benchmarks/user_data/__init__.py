"""Tables and samples of the kinds that people have, through the command line's problems."""
