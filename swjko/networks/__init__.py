"""Network architectures, in flax; ``swjko.flows`` makes families of them."""
