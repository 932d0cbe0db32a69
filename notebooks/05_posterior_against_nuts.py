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
# # A posterior, compared with NUTS
#
# Sampling from an unnormalised density is a gradient flow too: $F = \mathrm{KL}(\cdot \,|\, \nu)$
# needs $\log\nu$ up to a constant. Here $\nu$ is the posterior of a Bayesian logistic regression,
# and a long run of NUTS (blackjax) is the reference. NUTS converges to the posterior without bias,
# so differences beyond its Monte Carlo error are errors of the flow.
#
# The model: labels $y_i = \pm 1$ with $p(y_i | w) = \sigma(y_i \langle x_i, w\rangle)$, weights $w
# | \alpha \sim N(0, I / \alpha)$ and $\alpha \sim \mathrm{Gamma}(1, \text{rate } 100)$; the
# unknowns are $(w, \log\alpha)$. With the environment variable `SWJKO_SMOKE=1` the notebook runs at
# a small size in seconds; its figures and numbers are then meaningless.

# %%
# %matplotlib inline
import importlib.util
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from IPython.display import display
from jax.tree_util import Partial
from matplotlib.figure import Figure

import swjko
from swjko import flows, plots, problems

smoke = os.environ.get("SWJKO_SMOKE") == "1"

# %% [markdown]
# ## Data
#
# The data are scikit-learn's breast cancer table: ten means of measurements of cell nuclei, benign
# or malignant. A fifth of the rows is held out. (With all thirty columns a plane separates the
# classes, and the posterior then has no variance. With ten columns it does not.)

# %%
table = problems.breast_cancer()
columns = table.names[:10]
order = np.random.default_rng(0).permutation(len(table.labels))
test, train = order[: len(order) // 5], order[len(order) // 5 :]
standardised = (table.features[:, :10] - table.features[train, :10].mean(axis=0)) / table.features[
    train, :10
].std(axis=0)
features, labels = (
    jnp.asarray(standardised[train], jnp.float32),
    jnp.asarray(table.labels[train], jnp.float32),
)
log_prob = problems.logistic_regression(features, labels)
dim = features.shape[1] + 1
separable = scipy.optimize.linprog(
    np.zeros(dim - 1),
    A_ub=-standardised[train] * table.labels[train, None],
    b_ub=-np.ones(len(train)),
    bounds=(None, None),
)
print(
    f"{len(train)} rows for training, {len(test)} held out, {dim} unknowns; separable: "
    f"{separable.status == 0}"
)

# %% [markdown]
# ## Coordinates
#
# Some columns are nearly the same measurement (radius, perimeter, area), so the posterior is long
# and thin. Both the flow and NUTS do better in coordinates in which it is about round: the mode
# plus a factor of the inverse Hessian there, the Laplace approximation. In these coordinates the
# flow starts at $N(0, I)$, so the Laplace approximation is also the baseline. The flow adds what is
# not Gaussian.

# %%
with jax.enable_x64(True):
    exact_log_prob = problems.logistic_regression(
        jnp.asarray(standardised[train]), jnp.asarray(table.labels[train], float)
    )
    found = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(lambda x: -exact_log_prob(x))),
        np.zeros(dim),
        jac=True,
        method="BFGS",
    )
    mode, factor = (
        found.x,
        np.linalg.cholesky(np.linalg.inv(jax.hessian(lambda x: -exact_log_prob(x))(found.x))),
    )


# %%
def from_round_coordinates(mode, factor, log_prob, z):
    return log_prob(mode + factor @ z)


round_log_prob = Partial(
    from_round_coordinates,
    jnp.asarray(mode, jnp.float32),
    jnp.asarray(factor, jnp.float32),
    log_prob,
)
print(
    "log-posterior at the mode:",
    float(-found.fun),
    "norm of its gradient:",
    float(np.linalg.norm(found.jac)),
)

# %% [markdown]
# ## The flow
#
# The optimizer's `eps` has the size of the gradients that remain near the end, so its updates
# shrink with them. With the usual `eps`, each JKO step would begin by moving all parameters at the
# full rate.

# %%
num_steps, num_inner_steps = (2, 10) if smoke else (5, 150)
schedule = optax.warmup_cosine_decay_schedule(
    0.0, 5e-3, min(15, num_inner_steps), num_inner_steps + 1
)
scheme = swjko.sw_jko(
    flows.coupling(dim, num_layers=2 if smoke else 6, width=8 if smoke else 64),
    swjko.kl_divergence(round_log_prob),
    optax.adam(schedule, eps=1e-4),
    step_size=0.5,
    num_inner_steps=num_inner_steps,
    num_samples=32 if smoke else 256,
    num_projections=dim if smoke else 3 * dim,
    direction_fn=swjko.orthogonal_directions,
)
solution = swjko.solve(jax.random.key(0), scheme, num_steps, progress=False, record=swjko.both)
states, infos = solution.history
print(
    f"{solution.result.name}: {solution.timing.run_seconds:.1f} seconds, and "
    f"{solution.timing.compile_seconds:.1f} to compile"
)

# %% [markdown]
# The density of the flow is known, so its draws can be weighted. Importance sampling gives the
# evidence $\log \int e^{\log\nu}$ and the effective number of independent draws. The minimum of $F$
# is minus the log-evidence.

# %%
num_draws = 500 if smoke else 20_000
found = jax.jit(swjko.importance, static_argnames="num_samples")(
    jax.random.key(1), solution.distribution, round_log_prob, num_samples=num_draws
)
draws, log_evidence = found.cloud, float(found.log_evidence)
print(f"log-evidence {log_evidence:.3f} +- {float(found.standard_error):.1g}; {found.verdict}")

energies = jax.lax.map(
    lambda params: swjko.evaluate(
        jax.random.key(2),
        scheme.family,
        scheme.functional,
        params,
        num_samples=100 if smoke else 1000,
    ),
    states.params,
)
start = swjko.evaluate(
    jax.random.key(2),
    scheme.family,
    scheme.functional,
    scheme.init(jax.random.key(0)).params,
    num_samples=1000,
)
plots.energy(
    infos,
    estimate=energies,
    start=start,
    exact=-log_evidence,
    exact_name="-log evidence",
    unit="nats",
)

# %% [markdown]
# ## The reference
#
# Four chains of NUTS run in the same coordinates, in double precision, each warmed up by blackjax's
# window adaptation. Without blackjax (`pip install blackjax`) the comparison is skipped.

# %%
flow_points = mode + np.asarray(draws.points, np.float64) @ factor.T
laplace_points = mode + np.random.default_rng(1).standard_normal((num_draws, dim)) @ factor.T
has_blackjax = importlib.util.find_spec("blackjax") is not None
if has_blackjax:
    import blackjax

    num_warmup, num_samples = (100, 100) if smoke else (500, 2500)
    with jax.enable_x64(True):
        double_log_prob = Partial(
            from_round_coordinates, jnp.asarray(mode), jnp.asarray(factor), exact_log_prob
        )
        warmup_keys, run_keys = jax.random.split(jax.random.key(3), (2, 4))
        warmup = blackjax.window_adaptation(blackjax.nuts, double_log_prob)
        starts = 2.0 * jax.random.normal(jax.random.key(4), (4, dim))
        (warm, parameters), _ = jax.jit(
            jax.vmap(lambda key, at: warmup.run(key, at, num_steps=num_warmup))
        )(warmup_keys, starts)
        sample_chain = jax.vmap(
            lambda key, state, parameters: blackjax.util.run_inference_algorithm(
                key,
                blackjax.nuts(double_log_prob, **parameters),
                num_samples,
                initial_state=state,
                transform=lambda state, info: (state.position, info.is_divergent),
            )[1]
        )
        chains, divergent = jax.device_get(jax.jit(sample_chain)(run_keys, warm, parameters))
        chains = mode + chains @ factor.T
        rhat, ess = np.asarray(blackjax.rhat(chains)), np.asarray(blackjax.ess(chains))
    nuts_points = chains.reshape(-1, dim)
    print(
        f"R-hat at most {rhat.max():.4f}, effective draws at least {ess.min():.0f} of "
        f"{len(nuts_points)}, {divergent.sum()} divergent"
    )
else:
    print("blackjax is not installed: no comparison with NUTS. pip install blackjax")

# %% [markdown]
# The table shows differences of marginal means in posterior standard deviations, and ratios of
# standard deviations. The Monte Carlo error of a NUTS mean is one over the root of its effective
# draws.

# %%
if has_blackjax:
    mean, deviation = nuts_points.mean(axis=0), nuts_points.std(axis=0)
    print(
        "                           mean, off by (posterior sd)       sd, divided by that of NUTS"
    )
    print("                           flow     Laplace   NUTS error     flow     Laplace")
    for at, name in enumerate((*columns, "log alpha")):
        off = [
            (points[:, at].mean() - mean[at]) / deviation[at]
            for points in (flow_points, laplace_points)
        ]
        ratio = [points[:, at].std() / deviation[at] for points in (flow_points, laplace_points)]
        print(
            f"{name:24s} {off[0]:+7.3f}   {off[1]:+7.3f}   "
            f"{1 / math.sqrt(max(ess[at], 1.0)):10.3f}   {ratio[0]:7.3f}   {ratio[1]:7.3f}"
        )

# %% [markdown]
# Two marginals as densities: $\log\alpha$, and the weight that the Laplace approximation misses
# most.

# %%
shown = {"flow": flow_points, "Laplace": laplace_points} | (
    {"NUTS": nuts_points} if has_blackjax else {}
)
worst = int(
    np.argmax(
        np.abs((laplace_points.mean(axis=0) - flow_points.mean(axis=0)) / flow_points.std(axis=0))[
            :-1
        ]
    )
)
figure = Figure(figsize=(7.6, 3.2), dpi=100, layout="constrained")
for axis, at in zip(figure.subplots(1, 2), (dim - 1, worst), strict=True):
    bins = np.linspace(*np.quantile(flow_points[:, at], (0.001, 0.999)), 40)
    for index, (name, points) in enumerate(shown.items()):
        axis.hist(
            points[:, at],
            bins,
            density=True,
            histtype="step",
            color=f"C{index}",
            linewidth=1.3,
            label=name,
        )
    axis.set(xlabel="log alpha" if at == dim - 1 else f"weight of {columns[at]}", ylabel="density")
    axis.legend(fontsize=8)
display(figure)

# %% [markdown]
# ## Prediction
#
# Each held-out row is predicted by the average over the draws. Differences in prediction are far
# smaller than those of marginals, so accuracy hardly distinguishes samplers.


# %%
def log_predictive(points):
    """[rows]: the log of the averaged probability of each held-out label."""
    return np.logaddexp.reduce(
        -np.logaddexp(0.0, -points[:, :-1] @ (standardised[test] * table.labels[test, None]).T),
        axis=0,
    ) - math.log(len(points))


print("           accuracy   log-likelihood for each held-out row")
for name, points in shown.items():
    predicted = log_predictive(points)
    print(f"{name:8s}   {np.mean(predicted > math.log(0.5)):8.3f}   {predicted.mean():.4f}")
