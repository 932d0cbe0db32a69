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
# # A gallery of equations
#
# Many equations are gradient flows in Wasserstein space. Here are six of them, each with a figure
# and a number beside a known answer:
#
# | equation | energy | $W$ or $V$ | known answer |
# |---|---|---|---|
# | porous medium | $\int \rho^2$ | | Barenblatt's profile |
# | granular media | $\int \rho \log \rho + \frac12 \iint W \rho \rho$ | $x^2 / 2$ | Gaussian |
# | aggregation-diffusion | $\int \rho^2 + \frac12 \iint W \rho \rho$ | $x^2 / 2$ | steady profile |
# | Keller-Segel | as granular media | $\chi \log \lvert x \rvert$ | second moment |
# | crowd motion | $\int V \rho$ with $\rho \le 1$ | $x^2 / 2$ | free or congested paths |
# | neurons of a network | half of the squared error | | the teacher's neurons |
#
# On the line $SW_2$ is $W_2$, so `sw_jko` makes the steps of these equations themselves. The family
# is `swjko.cells`: cells of equal mass with moving edges. L-BFGS solves each step. With the
# environment variable `SWJKO_SMOKE=1` the notebook runs at a small size in seconds; its figures and
# numbers are then meaningless.

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

smoke = os.environ.get("SWJKO_SMOKE") == "1"
num_cells, num_inner_steps = (20, 4) if smoke else (300, 30)
# Wide enough for all densities, and fine enough for L1 errors of 1e-3.
x = np.linspace(-6.0, 6.0, 24001)


def quantiles(density):
    """Edges of cells of equal mass."""
    return jnp.asarray(
        np.interp(
            np.arange(num_cells + 1) / num_cells,
            np.cumsum(density) / np.sum(density),
            x,
        )
    )


def lagrangian(edges, functional, step_size, max_density=None):
    """The scheme of an equation on the line."""
    return swjko.sw_jko(
        swjko.cells(edges, max_density=max_density),
        functional,
        optax.lbfgs(),
        step_size=step_size,
        num_inner_steps=num_inner_steps,
        num_samples=num_cells,
        num_projections=1,
    )


def trajectory(scheme, states):
    """Edges [steps + 1, cells + 1] and times; the first are those of mu_0."""
    return (
        np.concatenate(
            [scheme.family.edges[None], jax.vmap(scheme.family.edges_at)(states.params)]
        ),
        np.concatenate([[0.0], states.time]),
    )


def flow(scheme, num_steps):
    """The trajectory of a flow."""
    return trajectory(
        scheme,
        swjko.solve(
            jax.random.key(0), scheme, num_steps, progress=False, record=swjko.both
        ).history[0],
    )


def density(edges):
    """Density of the cells at x."""
    return np.interp(
        np.searchsorted(edges, x, side="right"),
        np.arange(len(edges) + 1),
        np.concatenate([[0.0], 1 / (num_cells * np.diff(edges)), [0.0]]),
    )


def l1(one, other):
    """Integral of the absolute difference; two at most."""
    return np.sum(np.abs(one - other)) * (x[1] - x[0])


def barenblatt(radius):
    """The parabola of mass one."""
    return np.maximum(0.75 / radius * (1 - (x / radius) ** 2), 0.0)


def normal(scale):
    """N(0, scale^2)."""
    return np.exp(-0.5 * (x / scale) ** 2) / (scale * np.sqrt(2 * np.pi))


# %% [markdown]
# ## Porous medium
#
# $\partial_t \rho = \partial_{xx} \rho^2$. A parabola of radius $R_0$ stays a parabola, and its
# radius grows as $R^3 = R_0^3 + 9 t$ (Barenblatt).

# %%
scheme = lagrangian(
    quantiles(barenblatt(1.0)), swjko.internal_energy(lambda density: density**2), 0.02
)
edges, times = flow(scheme, 2 if smoke else 45)
figure = Figure(figsize=(6.4, 3.4), dpi=75, layout="constrained")
axis = figure.subplots()
for index, step in enumerate([len(times) // 3, 2 * len(times) // 3, len(times) - 1]):
    exact = barenblatt((1 + 9 * times[step]) ** (1 / 3))
    axis.plot(x, density(edges[step]), color=f"C{index}", label=f"t = {times[step]:.1f}")
    axis.plot(x, exact, "k:", linewidth=1.2, label="Barenblatt" if index == 0 else None)
    error = l1(density(edges[step]), exact)
    print(f"porous medium, t = {times[step]:.2f}: L1 error {100 * error:.2f} %")
axis.set(xlim=(-2.6, 2.6), xlabel="x", ylabel="density")
axis.legend()
display(figure)

# %% [markdown]
# ## Granular media
#
# $\partial_t \rho = \partial_{xx} \rho + \partial_x(\rho \, \partial_x W * \rho)$ with
# $W = x^2 / 2$: grains that diffuse and attract each other. The mean stays, so each grain sees a
# well around it, and a Gaussian of scale $s_0$ stays one with
# $s^2 = 1 + (s_0^2 - 1) e^{-2t}$.

# %%
energy = swjko.weighted_sum(
    (1.0, swjko.negative_entropy()),
    (1.0, swjko.interaction(lambda x: jnp.sum(x**2) / 2, self_pairs=True)),
)
edges, times = flow(lagrangian(quantiles(normal(0.4)), energy, 0.01), 2 if smoke else 90)
figure = Figure(figsize=(6.4, 3.4), dpi=75, layout="constrained")
axis = figure.subplots()
for index, step in enumerate([len(times) // 3, 2 * len(times) // 3, len(times) - 1]):
    exact = normal(np.sqrt(1 + (0.4**2 - 1) * np.exp(-2 * times[step])))
    axis.plot(x, density(edges[step]), color=f"C{index}", label=f"t = {times[step]:.1f}")
    axis.plot(x, exact, "k:", linewidth=1.2, label="exact" if index == 0 else None)
    error = l1(density(edges[step]), exact)
    print(f"granular media, t = {times[step]:.2f}: L1 error {100 * error:.2f} %")
axis.set(xlim=(-3.2, 3.2), xlabel="x", ylabel="density")
axis.legend()
display(figure)

# %% [markdown]
# ## Aggregation and diffusion
#
# $\partial_t \rho = \partial_{xx} \rho^2 + \partial_x(\rho \, \partial_x W * \rho)$, again with
# $W = x^2/2$. Attraction and the pressure of the porous medium balance in a parabola of radius
# $3^{1/3}$. Two swarms merge into it.

# %%
energy = swjko.weighted_sum(
    (1.0, swjko.internal_energy(lambda density: density**2)),
    (1.0, swjko.interaction(lambda x: jnp.sum(x**2) / 2, self_pairs=True)),
)
swarms = np.maximum(0.36 - (np.abs(x) - 1.6) ** 2, 0.0)
edges, times = flow(lagrangian(quantiles(swarms), energy, 0.05), 2 if smoke else 80)
figure = Figure(figsize=(6.4, 3.4), dpi=75, layout="constrained")
axis = figure.subplots()
shown = np.unique(np.minimum([0, 6, 14, 24, len(times) - 1], len(times) - 1))
for index, step in enumerate(shown):
    axis.plot(x, density(edges[step]), color=f"C{index}", label=f"t = {times[step]:.1f}")
steady = barenblatt(3 ** (1 / 3))
axis.plot(x, steady, "k:", linewidth=1.2, label="steady")
axis.set(xlim=(-2.6, 4.0), xlabel="x", ylabel="density")
axis.legend()
display(figure)
error = l1(density(edges[-1]), steady)
print(f"aggregation-diffusion: L1 distance to the steady profile {100 * error:.2f} %")

# %% [markdown]
# ## Keller-Segel
#
# Bacteria diffuse and follow a chemical that they emit, here on the line with the kernel
# $\chi \log\lvert x\rvert$. For any solution the second moment is $M(0) + (2 - \chi) t$. Below
# $\chi = 2$ the bacteria spread, and above it they collapse before $t = M(0) / (\chi - 2)$
# (Dolbeault and Perthame 2004 in the plane, with $8\pi$). The number is the slope.


# %%
def chemical(strength, x):
    return strength * jnp.log(jnp.sum(x**2)) / 2


figure = Figure(figsize=(8.4, 3.2), dpi=75, layout="constrained")
densities, moments = figure.subplots(1, 2)
for index, strength in enumerate([1.0, 1.5, 2.5]):
    energy = swjko.weighted_sum(
        (1.0, swjko.negative_entropy()),
        (1.0, swjko.interaction(Partial(chemical, strength))),
    )
    edges, times = flow(lagrangian(quantiles(normal(1.0)), energy, 0.02), 2 if smoke else 50)
    # Of a cell: the square of its middle, and its width squared over 12.
    second = np.mean(
        ((edges[:, 1:] + edges[:, :-1]) / 2) ** 2 + np.diff(edges, axis=1) ** 2 / 12, axis=1
    )
    slope = (second[-1] - second[0]) / times[-1]
    print(f"Keller-Segel, chi = {strength}: slope {slope:+.3f}, exact {2 - strength:+.3f}")
    densities.plot(x, density(edges[-1]), color=f"C{index}", label=rf"$\chi$ = {strength}")
    moments.plot(times, second, color=f"C{index}")
    moments.plot(times, second[0] + (2 - strength) * times, "k:", linewidth=1.2)
densities.plot(x, normal(1.0), color="0.6", label="start")
densities.set(xlim=(-4, 4), ylim=(3e-4, 20), yscale="log", xlabel="x")
densities.set_ylabel(f"density at t = {times[-1]:.1f}")
densities.legend()
moments.set(xlabel="t", ylabel="second moment (dotted: exact)")
display(figure)

# %% [markdown]
# ## Crowd motion
#
# People walk towards an exit at 0, $V = x^2/2$, and no more than one of them fits in a unit of
# length. `cells(max_density=1)` keeps the constraint. A person with the mass $m$ on the inner side
# of both $\pm y$ walks freely, $y e^{-t}$, until the congested block is met, and then stands at
# $m/2$: the path is the larger of the two.

# %%
start = quantiles(np.exp(-np.abs(x) / 1.5) * (np.abs(x) < 3.5))
exit_distance = swjko.potential(lambda x: jnp.sum(x**2) / 2)
scheme = lagrangian(start, exit_distance, 0.02, max_density=1.0)
edges, times = flow(scheme, 2 if smoke else 75)
middles = (edges[:, 1:] + edges[:, :-1]) / 2
mass = np.abs((np.arange(num_cells) + 0.5) / num_cells - 0.5)
free = np.abs(middles[0]) * np.exp(-times[:, None])
exact = np.sign(middles[0]) * np.maximum(free, mass)
figure = Figure(figsize=(8.4, 3.2), dpi=75, layout="constrained")
densities, paths = figure.subplots(1, 2)
for index, step in enumerate([0, len(times) // 3, len(times) - 1]):
    densities.plot(x, density(edges[step]), color=f"C{index}", label=f"t = {times[step]:.1f}")
densities.set(xlim=(-3.6, 3.6), xlabel="x", ylabel="density")
densities.legend()
followed = np.linspace(0, num_cells - 1, 20).astype(int)
paths.plot(times, middles[:, followed], color="C0", linewidth=1.0)
paths.plot(times, exact[:, followed], "k:", linewidth=1.0)
paths.set(xlabel="t", ylabel="paths (dotted: exact)")
display(figure)
print(f"crowd motion: mean error of the paths {np.mean(np.abs(middles - exact)):.4f}")
print(f"largest density {np.max(1 / (num_cells * np.diff(edges, axis=1))):.4f}")

# %% [markdown]
# ## Neurons as particles
#
# A network of two layers is the mean of its neurons,
# $f(u) = \int a \max(w \cdot u, 0) \, d\mu(a, w)$. Its squared error is an energy of the measure
# $\mu$ of the neurons, and training is its flow (Mei, Montanari, Nguyen 2018; Chizat and Bach
# 2018). A teacher with four neurons makes the data. The students, many small neurons, turn to the
# directions of the teachers (dotted), whose error is zero, or to their opposites: since
# $\max(z, 0) - \max(-z, 0) = z$, neurons of opposite directions can share a linear part.

# %%
num_neurons, num_inputs = (20, 30) if smoke else (200, 400)
teachers = jnp.asarray([[1.0, 2.0, 0.5], [-1.0, -1.0, 1.5], [1.0, -0.5, -2.0], [-1.0, 1.5, -1.5]])
inputs = jax.random.normal(jax.random.key(3), (2 * num_inputs, 2))


def outputs(neurons, inputs):
    """The network's output at each input."""
    return jnp.mean(neurons[:, :1] * jnp.maximum(neurons[:, 1:] @ inputs.T, 0.0), axis=0)


def squared_error(inputs, values, key, cloud):
    """Half of the mean squared error."""
    return jnp.mean((outputs(cloud.points, inputs) - values) ** 2) / 2


values = outputs(teachers, inputs)
start = 0.3 * jax.random.normal(jax.random.key(4), (num_neurons, 3))
scheme = swjko.sw_jko(
    swjko.particles(start),
    Partial(squared_error, inputs[:num_inputs], values[:num_inputs]),
    optax.adam(optax.cosine_decay_schedule(5e-2, 5 if smoke else 60)),
    step_size=4.0,
    num_inner_steps=5 if smoke else 60,
    num_samples=num_neurons,
    num_projections=24,
    direction_fn=swjko.orthogonal_directions,
)
solution = swjko.solve(
    jax.random.key(5), scheme, 2 if smoke else 30, progress=False, record=swjko.both
)
states, infos = solution.history
figure = Figure(figsize=(8.4, 3.4), dpi=75, layout="constrained")
plane, errors = figure.subplots(1, 2)
for points, color, name in ((start, "0.6", "start"), (solution.state.params, "C0", "end")):
    places = np.abs(points[:, :1]) * points[:, 1:]
    plane.scatter(*places.T, s=8, color=color, label=name)
for teacher in np.asarray(teachers):
    plane.axline((0.0, 0.0), teacher[1:], color="k", linestyle=":", linewidth=1.2)
plane.set(aspect="equal", xlabel="$|a| w_1$", ylabel="$|a| w_2$")
plane.legend()
errors.semilogy(states.time, infos.energy)
errors.set(xlabel="SW time", ylabel="energy")
display(figure)
unseen = outputs(solution.state.params, inputs[num_inputs:]) - values[num_inputs:]
print(
    "mean squared error on new inputs: "
    f"{100 * float(jnp.mean(unseen**2) / jnp.var(values[num_inputs:])):.2f} % of the variance"
)
