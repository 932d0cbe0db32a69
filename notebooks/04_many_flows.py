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
# # Many flows on many devices
#
# Schemes and families are pytrees: their data are leaves. Many flows with different targets, step
# sizes or random keys are therefore one compiled program over stacked leaves. `swjko.run_many` runs
# it on one device or over a mesh.
#
# To try a mesh without accelerators, XLA can present one CPU as four devices. The flag must be set
# **before jax starts**, so it is in the first cell; if jax runs already, restart the kernel. On
# real accelerators leave it out: `jax.devices()` then lists them, and nothing else below changes.
# Forced devices share the cores of the machine, so they show that a program is correct, not how
# fast it is.
#
# With the environment variable `SWJKO_SMOKE=1` the notebook runs at a small size in seconds; its
# figures and numbers are then meaningless.

# %%
# %matplotlib inline
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from matplotlib.figure import Figure

import swjko
from swjko import closed_form, problems

smoke = os.environ.get("SWJKO_SMOKE") == "1"
mesh = swjko.flow_mesh()
print(f"{len(jax.devices())} devices of kind {jax.devices()[0].platform}; mesh {dict(mesh.shape)}")

# %% [markdown]
# ## Eight targets
#
# There are eight random Gaussians in three dimensions, with a scheme for each. `swjko.stack_flows`
# makes one scheme of them: leaves that differ are stacked, and equal ones are kept once. Schemes
# may differ in leaves only, so make functions and the optimizer once, outside the loop. The
# target's centre and precision are leaves, since `swjko.problems` binds them by
# `jax.tree_util.Partial`.

# %%
num_flows, num_steps, num_inner_steps, dim = (8, 3, 30, 3) if smoke else (8, 10, 150, 3)
targets = [problems.gaussian_target(seed, dim) for seed in range(num_flows)]
family = swjko.gaussian(dim)
optimizer = optax.adam(optax.cosine_decay_schedule(5e-2, num_inner_steps))
schemes = [
    swjko.sw_jko(
        family,
        swjko.kl_divergence(problem.target.log_prob),
        optimizer,
        step_size=0.1,
        num_inner_steps=num_inner_steps,
        num_samples=64 if smoke else 512,
        num_projections=12 if smoke else 48,
        direction_fn=swjko.recommended_directions,
    )
    for problem in targets
]
scheme, axes = swjko.stack_flows(schemes)
keys = jax.random.split(jax.random.key(0), num_flows)
states, infos = swjko.run_many(keys, scheme, num_steps, axes=axes, mesh=mesh)
means, covs = jax.device_get(jax.vmap(swjko.gaussian_moments)(states.params))
print("energies, [flows, steps]:", infos.energy.shape)

# %% [markdown]
# Each device holds its own flows, and no data move between devices while they run:

# %%
for shard in states.time.addressable_shards:
    print(f"{shard.device}: {shard.data.shape[0]} flows")

# %% [markdown]
# Each flow has its own exact answer. The table compares the last measures with the exact SW-JKO
# iterates, and shows how far the flow has moved:

# %%
print("flow  result   |mean - exact|   |cov - exact|   |exact cov - start|")
for index, problem in enumerate(targets):
    # The average over the sphere is one over directions, whose noise of 1 / root(num_directions) is
    # the oracle's own.
    exact = problems.exact_sw_jko_flow(
        problem, 0.1, num_steps, num_directions=2000 if smoke else 30_000
    )
    errors = (
        np.linalg.norm(means[index] - exact.mean[-1]),
        np.linalg.norm(covs[index] - exact.cov[-1]),
    )
    print(
        f"{index:4d}  {swjko.Result(int(states.result[index])).name:6s}   {errors[0]:14.4f}   "
        f"{errors[1]:13.4f}   "
        f"{np.linalg.norm(exact.cov[-1] - np.eye(dim)):19.4f}"
    )

# %% [markdown]
# Each flow equals the flow that runs alone with the same key: `swjko.solve` draws the same numbers.

# %%
alone = swjko.solve(keys[3], schemes[3], num_steps, progress=False)
print(
    "largest difference from the flow alone:",
    float(np.max(np.abs(alone.history.energy - np.asarray(infos.energy[3])))),
)

# %% [markdown]
# ## A flow that fails leaves the others alone
#
# Errors inside a compiled program cannot be raised. A flow that fails stops at its last good state,
# and its result code says why. Here the third flow gets a broken step size.

# %%
sizes = jnp.full(num_flows, 0.1).at[2].set(jnp.nan)
broken, broken_axes = (
    dataclasses.replace(scheme, step_size=sizes),
    dataclasses.replace(axes, step_size=0),
)
broken_states, _ = swjko.run_many(keys, broken, num_steps, axes=broken_axes, mesh=mesh)
print("results:", [swjko.Result(int(code)).name for code in broken_states.result])
print("steps taken:", broken_states.step.tolist())
others = [index for index in range(num_flows) if index != 2]
same = jax.tree.map(
    lambda one, other: np.array_equal(one[np.array(others)], other[np.array(others)]),
    broken_states.params,
    states.params,
)
print("all others as before, to the bit:", all(jax.tree.leaves(same)))
print(swjko.Result.NON_FINITE.advice)

# %% [markdown]
# ## A sweep over step sizes, against the exact flow
#
# How small must a step be? For $V = |x|^2/2$ and an isotropic start, SW time *is* $d$ times
# Wasserstein time, and Ornstein-Uhlenbeck at $d\,T$ is the exact flow at SW time $T$. Four step
# sizes that divide $T$; all flows take as many steps as the smallest size needs, and each is read
# where it reaches $T$. Equal keys give them common random numbers.

# %%
sweep_dim, end, step_sizes = 2, 0.8, np.array([0.05, 0.1, 0.2, 0.4])
most = 4 if smoke else round(end / step_sizes[0])
base = swjko.sw_jko(
    swjko.gaussian(sweep_dim, init_mean=2.0, init_scale=2.0),
    swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2)),
    optimizer,
    step_size=0.1,
    num_inner_steps=num_inner_steps,
    num_samples=64 if smoke else 1024,
    num_projections=8 if smoke else 32,
    direction_fn=swjko.recommended_directions,
)
sweep = dataclasses.replace(base, step_size=jnp.asarray(step_sizes, jnp.float32))
sweep_axes = dataclasses.replace(jax.tree.map(lambda leaf: None, base), step_size=0)
same_keys = jnp.stack([jax.random.key(1)] * len(step_sizes))
_, (trajectories, _) = swjko.run_many(
    same_keys, sweep, most, axes=sweep_axes, mesh=mesh, record=swjko.both
)
sweep_means, sweep_covs = jax.device_get(
    jax.vmap(jax.vmap(swjko.gaussian_moments))(trajectories.params)
)

# %%
process = closed_form.ornstein_uhlenbeck(
    jnp.full(2, 2.0), 4 * jnp.eye(2), jnp.eye(2), jnp.zeros(2), sweep_dim * end
)
limit = float(process.mean[0]), float(jnp.sqrt(process.cov[0, 0]))
errors, exact_errors = [], []
print(f"mean and scale at SW time {end}: {limit[0]:.4f}, {limit[1]:.4f} in continuous time")
print("step size   steps   mean     exact step   scale    exact step")
for index, size in enumerate(step_sizes):
    count = min(round(end / size), most)
    law = closed_form.IsotropicGaussian(jnp.full(2, 2.0), jnp.asarray(2.0))
    for _ in range(count):
        law = closed_form.isotropic_sw_jko_step(law.mean, law.scale, jnp.zeros(2), float(size))
    mean, scale = (
        float(np.mean(sweep_means[index, count - 1])),
        float(np.sqrt(np.trace(sweep_covs[index, count - 1]) / 2)),
    )
    errors.append(abs(mean - limit[0]))
    exact_errors.append(abs(float(law.mean[0]) - limit[0]))
    print(
        f"{size:9.2f}   {count:5d}   {mean:.4f}   {float(law.mean[0]):10.4f}   {scale:.4f}   "
        f"{float(law.scale):10.4f}"
    )

figure = Figure(figsize=(5.2, 3.6), dpi=100, layout="constrained")
axis = figure.subplots()
axis.loglog(step_sizes, errors, "o", label="SW-JKO as solved")
axis.loglog(step_sizes, exact_errors, "--", color="0.3", label="exact SW-JKO steps")
axis.loglog(
    step_sizes,
    exact_errors[0] * step_sizes / step_sizes[0],
    ":",
    color="C1",
    label="proportional to the step size",
)
axis.set(xlabel="step size", ylabel=f"error of the mean at SW time {end}")
axis.set_xticks(step_sizes, [str(size) for size in step_sizes], minor=False)
axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
axis.legend(fontsize=8)
display(figure)

# %% [markdown]
# The error of the scheme itself is of first order in the step size, and the inner solves follow the
# exact steps. (`swjko.sw_bdf2` is of second order, for the same arguments.)
#
# ## With your own `jax.vmap`
#
# `run_many` is a convenience. The same sweep is a `vmap` whose `in_axes` is a scheme. It composes
# with the rest of your program, such as a function of the end that you differentiate or minimise.

# %%
run = jax.jit(
    jax.vmap(
        lambda key, scheme: swjko.run(key, scheme, scheme.init(key), most, swjko.infos)[1].energy,
        in_axes=(None, sweep_axes),
    )
)
energies = run(jax.random.key(2), sweep)
print("energies after the last step, one for each step size:", np.asarray(energies[:, -1]).round(4))
print(f"least energy, -log of the normalising constant: {-np.log(2 * np.pi):.4f}")
