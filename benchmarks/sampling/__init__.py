"""Samplers on the field's targets: modes, log Z, ELBO and EUBO, energy distance."""
