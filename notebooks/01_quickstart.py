# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# This notebook draws a gradient flow in sliced-Wasserstein space, and checks another one against
# its known answer.
#
# Each step of the SW-JKO scheme solves
#
# $$\mu_{k+1} = \arg\min_{\mu} \; \frac{SW_2^2(\mu, \mu_k)}{2\tau} + F(\mu) .$$
#
# With the environment variable `SWJKO_SMOKE=1` the notebook runs at a small size in seconds; its
# figures and numbers are then meaningless.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from swjko import flows, plots

smoke = os.environ.get("SWJKO_SMOKE") == "1"

# %% [markdown]
# ## A double well
#
# The target is $\nu \propto e^{-V}$ with $V(x) = \sum_i (x_i^2 - 1)^2$: four wells in the plane. $F
# = \mathrm{KL}(\cdot \,|\, \nu)$, up to a constant, and $\mu_0 = N(0, I)$. The family is a coupling
# flow, whose density is exact.


# %%
def log_prob(x):
    return -jnp.sum((x**2 - 1.0) ** 2)


num_steps, num_inner_steps = (4, 10) if smoke else (30, 150)
scheme = swjko.sw_jko(
    flows.coupling(dim=2),
    swjko.kl_divergence(log_prob),
    optax.adam(optax.cosine_decay_schedule(3e-3, num_inner_steps)),
    step_size=0.1,
    num_inner_steps=num_inner_steps,
    num_samples=64 if smoke else 512,
    num_projections=16 if smoke else 64,
)
solution = swjko.solve(jax.random.key(0), scheme, num_steps, progress=False, record=swjko.both)
states, infos = solution.history
solution.result.name, float(infos.energy[-1])

# %% [markdown]
# `record=swjko.both` kept the parameters of all steps. `swjko.replay` pushes the same latents
# through each of them, so a point keeps its identity from one picture to the next.

# %%
shown = np.unique(np.linspace(0, num_steps - 1, 4).round().astype(int))
clouds = swjko.replay(
    jax.random.key(1), scheme.family, jax.tree.map(lambda leaf: leaf[shown], states.params), 500
)
plots.clouds(clouds.points, states.time[shown], log_prob=log_prob)

# %% [markdown]
# The energy falls to about its minimum, $-\log \int e^{-V}$. Quadrature gives that minimum, since
# $V$ is a sum over coordinates.

# %%
grid = np.linspace(-4.0, 4.0, 4001)
least_energy = -2.0 * float(np.log(np.trapezoid(np.exp(-((grid**2 - 1.0) ** 2)), grid)))
plots.energy(infos, exact=least_energy, exact_name="least energy", unit="nats")

# %% [markdown]
# `swjko.evaluate` gives the last energy with its standard error. The excess over the minimum is
# $\mathrm{KL}(\mu \,|\, \nu)$.

# %%
energy = swjko.evaluate(
    jax.random.key(2), scheme.family, scheme.functional, solution.state.params, num_samples=2000
)
print(
    f"KL to the target: {float(energy.value) - least_energy:.4f} +- "
    f"{float(energy.standard_error):.4f}"
)

# %% [markdown]
# ## A flow with a known answer
#
# From $N(m, s^2 I)$ with $V(x) = |x|^2/2$ every step stays among isotropic Gaussians and has a
# closed form, `swjko.closed_form.isotropic_sw_jko_step`. The `gaussian` family is not restricted to
# isotropic Gaussians and has to find it.

# %%
gaussian_inner_steps = 30 if smoke else 150
gaussian_scheme = swjko.sw_jko(
    swjko.gaussian(2, init_mean=2.0, init_scale=2.0),
    swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2)),
    optax.adam(optax.cosine_decay_schedule(5e-2, gaussian_inner_steps)),
    step_size=0.1,
    num_inner_steps=gaussian_inner_steps,
    num_samples=512,
    num_projections=32,
)
gaussian_solution = swjko.solve(
    jax.random.key(3), gaussian_scheme, 10, progress=False, record=swjko.both
)
means, covs = jax.vmap(swjko.gaussian_moments)(gaussian_solution.history[0].params)

exact = [swjko.closed_form.IsotropicGaussian(jnp.full(2, 2.0), jnp.asarray(2.0))]
for _ in range(10):
    exact.append(
        swjko.closed_form.isotropic_sw_jko_step(exact[-1].mean, exact[-1].scale, jnp.zeros(2), 0.1)
    )

print("step   mean  exact   scale  exact")
for step in range(10):
    scale = float(jnp.sqrt(jnp.trace(covs[step]) / 2))
    law = exact[step + 1]
    print(
        f"{step + 1:4d}  {float(means[step].mean()):.3f}  {float(law.mean[0]):.3f}   {scale:.3f}  "
        f"{float(law.scale):.3f}"
    )

# %% [markdown]
# In these examples time runs $d = 2$ times as fast as in the Wasserstein flow, so the flow at SW
# time 1 is close to the exact Ornstein-Uhlenbeck process at time 2. They are not equal, since a
# step of 0.1 is an implicit Euler step of 0.2.

# %%
ornstein_uhlenbeck = swjko.closed_form.ornstein_uhlenbeck(
    jnp.full(2, 2.0), 4.0 * jnp.eye(2), jnp.eye(2), jnp.zeros(2), 2.0
)
print(
    f"mean {float(ornstein_uhlenbeck.mean[0]):.3f}, scale "
    f"{float(jnp.sqrt(ornstein_uhlenbeck.cov[0, 0])):.3f}"
)
