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
# # Aggregation: a ring, a disk and an annulus, by three families
#
# The interaction energy
#
# $$F(\mu) = \tfrac12 \iint W(x - y) \, d\mu(x) \, d\mu(y) + \int V \, d\mu$$
#
# describes swarms: $W$ attracts at long range and repels at short range, and the flow of $F$
# settles where both balance. $F$ needs no density, so any family can be used: particles, the image
# of noise under a network, or weights on a grid. Three kernels in the plane have equilibria that
# are known exactly:
#
# | | $W$, with $r = \lvert x\rvert$ | $V$ | equilibrium | $F$ |
# |---|---|---|---|---|
# | ring | $r^4/4 - r^2/2$ | 0 | circle of radius $1/\sqrt3$ | $-1/12$ |
# | disk | $r^2/2 - \log r$ | 0 | uniform on the unit disk | $3/8$ |
# | annulus | $r^2/2 - \log r$ | $-\frac14 \log r$ | uniform, $1/2 < r < \sqrt5/2$ | printed below |
#
# Source: Bonet, Courty, Septier, Drumetz (2022), arXiv 2110.10972, section 4. With the environment
# variable `SWJKO_SMOKE=1` the notebook runs at a small size in seconds; its figures and numbers are
# then meaningless.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import display
from jax.tree_util import Partial
from matplotlib.figure import Figure

import swjko
from swjko import flows, plots, problems

smoke = os.environ.get("SWJKO_SMOKE") == "1"


# %% [markdown]
# ## The energies
#
# A kernel is a function of the difference of two points. `swjko.problems` has the exact energies
# and radii.


# %%
def ring_kernel(x):
    return jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2


def coulomb_kernel(x):
    return jnp.sum(x**2) / 2 - jnp.log(jnp.sum(x**2)) / 2


def repulsive_center(x):
    return -jnp.log(jnp.sum(x**2)) / 8


equilibria = {"ring": problems.ring(), "disk": problems.disk(), "annulus": problems.annulus()}
kernels = {"ring": ring_kernel, "disk": coulomb_kernel, "annulus": coulomb_kernel}
# (coefficient, functional) pairs beside the interaction.
others = {"ring": [], "disk": [], "annulus": [(1.0, swjko.potential(repulsive_center))]}
for name, equilibrium in equilibria.items():
    print(
        f"{name}: F = {equilibrium.exact_energy:.6f}, radii {equilibrium.inner_radius:.4f} and "
        f"{equilibrium.outer_radius:.4f}"
    )

# %% [markdown]
# ## The families
#
# All start at $N(0, 0.25^2 I)$. How the double integral is estimated depends on what the points
# are:
#
# - **network**: points are independent draws, and a point is never paired with itself. Unbiased;
#   the default of `swjko.interaction`.
# - **particles**: the points *are* the measure. The ring's kernel is finite at 0, so all pairs
#   count (`self_pairs=True`). The other kernel is infinite there and keeps particles apart.
# - **grid**: the mass of a cell is spread over it and interacts with itself, by the mean of $W$
#   over two points of one cell. For $-\log|x|$ that mean is finite; the code below approximates it
#   by a sum over midpoints.

# %%
start_scale, num_particles, cells = (0.25, 40, 8) if smoke else (0.25, 400, 20)
points = start_scale * jax.random.normal(jax.random.key(0), (num_particles, 2))
# The annulus needs a start that is centred: see problems.annulus.
particles = swjko.particles(points - jnp.mean(points, axis=0, keepdims=True))
network = flows.mlp(2, 2, width=8 if smoke else 64, init_scale=start_scale)


# %%
def with_mean_of_a_cell(kernel, mean, side, x):
    """The kernel between cells: ``mean`` for a cell and itself, and at centres else."""
    return jnp.where(
        jnp.sum(x**2) < (side / 2) ** 2,
        mean,
        kernel(jnp.where(jnp.sum(x**2) < (side / 2) ** 2, side, x)),
    )


grids, cell_kernels = {}, {}
for name, kernel in kernels.items():
    half = 0.8 if name == "ring" else 1.25
    side = 2 * half / cells
    line = -half + side * (jnp.arange(cells) + 0.5)
    centers = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    grids[name] = swjko.grid(
        centers,
        side**2,
        weights=jax.nn.softmax(-0.5 * jnp.sum(centers**2, axis=1) / start_scale**2),
    )
    # The difference of two uniform points has triangular coordinates; an even number of midpoints
    # keeps away from 0.
    t = (np.arange(200) + 0.5) / 100 - 1
    density = np.outer(1 - np.abs(t), 1 - np.abs(t)).ravel() / 100**2
    differences = jnp.asarray(
        side * np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2), jnp.float32
    )
    mean = float(density @ np.asarray(jax.vmap(kernel)(differences), np.float64))
    cell_kernels[name] = Partial(with_mean_of_a_cell, Partial(kernel), mean, side)

# %% [markdown]
# ## Nine flows
#
# One function makes all nine schemes. The optimizer starts afresh in each JKO step, so its schedule
# spans one step. A step of $\tau = 0.4$ in SW time is a step of about $d\tau = 0.8$ in Wasserstein
# time. That is large, since only the end matters here. The annulus gets smaller and fewer steps,
# since it is an equilibrium among symmetric measures only.

# %%
families = {"particles": lambda name: particles, "network": lambda name: network, "grid": grids.get}
interactions = {
    "particles": lambda name: swjko.interaction(kernels[name], self_pairs=name == "ring"),
    "network": lambda name: swjko.interaction(kernels[name]),
    "grid": lambda name: swjko.interaction(cell_kernels[name], self_pairs=True),
}
learning_rates = {"particles": 2e-2, "network": 3e-3, "grid": 1e-1}
num_inner_steps = {"particles": 50, "network": 80, "grid": 50}
num_samples = {"particles": num_particles, "network": 32 if smoke else 256, "grid": cells**2}

solutions = {}
for name in equilibria:
    num_steps, step_size = (2, 0.4) if smoke else (15, 0.2) if name == "annulus" else (20, 0.4)
    for family in families:
        count = 5 if smoke else num_inner_steps[family]
        scheme = swjko.sw_jko(
            families[family](name),
            swjko.weighted_sum((1.0, interactions[family](name)), *others[name]),
            optax.adam(optax.cosine_decay_schedule(learning_rates[family], count), eps=1e-6),
            step_size=step_size,
            num_inner_steps=count,
            num_samples=num_samples[family],
            num_projections=8 if smoke else 32,
            direction_fn=swjko.recommended_directions,
        )
        solution = swjko.solve(
            jax.random.key(1), scheme, num_steps, progress=False, record=swjko.both
        )
        solutions[name, family] = (scheme, solution)
        print(
            f"{name}, {family}: {solution.result.name}, F = "
            f"{float(solution.history[1].energy[-1]):.4f}",
            flush=True,
        )

# %% [markdown]
# ## The final measures, and the exact radii

# %%
figure = Figure(figsize=(7.2, 7.4), dpi=90, layout="constrained")
axes = figure.subplots(3, 3)
angles = np.linspace(0, 2 * np.pi, 200)
clouds = {}
for row, family in enumerate(families):
    for column, (name, equilibrium) in enumerate(equilibria.items()):
        scheme, solution = solutions[name, family]
        drawn = num_samples[family] if scheme.family.is_finite else 1000
        cloud = swjko.sample(scheme.family, solution.state.params, jax.random.key(2), drawn)
        clouds[name, family] = cloud
        axis, weights = (
            axes[row, column],
            1.0 if cloud.weights is None else np.asarray(cloud.weights / jnp.max(cloud.weights)),
        )
        axis.scatter(
            *np.asarray(cloud.points).T,
            s=(3 if cloud.weights is None else 20) * weights,
            linewidths=0,
            rasterized=True,
        )
        for radius in {equilibrium.inner_radius, equilibrium.outer_radius} - {0.0}:
            axis.plot(radius * np.cos(angles), radius * np.sin(angles), color="C1", linewidth=0.9)
        half = 0.85 if name == "ring" else 1.3
        axis.set(
            xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="$x_1$", ylabel="$x_2$"
        )
        axis.set_title(f"{name}, {family}", fontsize=9)
display(figure)

# %% [markdown]
# ## Energies and their exact values
#
# The network's energy is estimated over fresh draws, with a standard error. The energy of particles
# and grids is exact for the measure itself; the grid uses distances between centres of cells.
# Particles under a kernel that is infinite at 0 lie *below* the minimum over measures, by about
# $\log(n) / (4 n)$ for $n$ particles, since no particle interacts with itself. That is a property
# of point clouds, not an error of the flow.

# %%
evaluate = jax.jit(swjko.evaluate, static_argnames=("num_samples", "num_repeats"))
print("problem  family     energy                 exact      difference")
for (name, family), (scheme, solution) in solutions.items():
    fresh = num_samples[family] if scheme.family.is_finite else 200 if smoke else 2000
    energy = evaluate(
        jax.random.key(3),
        scheme.family,
        scheme.functional,
        solution.state.params,
        num_samples=fresh,
    )
    exact = equilibria[name].exact_energy
    error = f" +- {float(energy.standard_error):.5f}" if family == "network" else " " * 11
    print(
        f"{name:8s} {family:9s} {float(energy.value):9.5f}{error}  {exact:9.5f}  "
        f"{float(energy.value) - exact:+9.5f}"
    )
print(
    f"log(n) / (4 n) for {num_particles} particles: "
    f"{np.log(num_particles) / (4 * num_particles):.5f}"
)

# %% [markdown]
# ## Where the mass is
#
# On a uniform disk or annulus $|x|^2$ is uniform between the squared radii, so the quantiles of
# $|x|$ are known.

# %%
levels = np.array([0.05, 0.5, 0.95])
print("problem  family     radii at 5 %, 50 % and 95 % of the mass")
for name, equilibrium in equilibria.items():
    inner, outer = equilibrium.inner_radius, equilibrium.outer_radius
    print(f"{name:8s} exact     ", np.sqrt(inner**2 + levels * (outer**2 - inner**2)).round(3))
    for family in families:
        cloud = clouds[name, family]
        radii = np.linalg.norm(np.asarray(cloud.points), axis=1)
        weights = (
            np.full(len(radii), 1 / len(radii))
            if cloud.weights is None
            else np.asarray(cloud.weights)
        )
        order = np.argsort(radii)
        quantiles = radii[order][np.searchsorted(np.cumsum(weights[order]), levels)]
        print(f"{name:8s} {family:10s}", quantiles.round(3))

# %% [markdown]
# ## How the energy falls
#
# The figure shows the network's energies along the ring's flow, each evaluated on fresh draws with
# its standard error (the band), above the exact minimum. Exact steps never raise $F$.

# %%
scheme, solution = solutions["ring", "network"]
states, infos = solution.history
energies = jax.lax.map(
    lambda params: swjko.evaluate(
        jax.random.key(4),
        scheme.family,
        scheme.functional,
        params,
        num_samples=100 if smoke else 500,
    ),
    states.params,
)
before = evaluate(
    jax.random.key(4),
    scheme.family,
    scheme.functional,
    scheme.init(jax.random.key(1)).params,
    num_samples=500,
)
plots.energy(
    infos,
    estimate=energies,
    start=before,
    exact=equilibria["ring"].exact_energy,
    exact_name="-1/12",
)

# %% [markdown]
# The same flow as clouds, with the same latents at all times:

# %%
shown = np.unique(np.linspace(0, len(states.time) - 1, 4).round().astype(int))
moments = swjko.replay(
    jax.random.key(5), scheme.family, jax.tree.map(lambda leaf: leaf[shown], states.params), 400
)
plots.clouds(moments.points, states.time[shown])
