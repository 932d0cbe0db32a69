"""All optimizers of optax: each lowers a quadratic in a few updates, or is refused by its name."""

import inspect
import logging

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers import sw_jko
from optax import contrib

import swjko
from swjko.schemes import inner_solve
from swjko.schemes.optimizers import require_updates

RATE = 1e-2
START = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
# Made with a learning rate alone.
_WITH_A_RATE = (
    *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw"),
    *("adan", "amsgrad", "fromage", "lamb", "lars", "lion", "nadam", "nadamw", "noisy_sgd"),
    *("novograd", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent"),
    *("radam", "rmsprop", "rprop", "sgd", "sign_sgd", "signum", "sm3", "yogi"),
)
_CONTRIB_WITH_A_RATE = (
    *("acprop", "ademamix", "adopt", "galore", "madgrad", "muon", "simplified_ademamix", "sophia"),
)
_CONTRIB_WITHOUT = (
    *("cocob", "dadapt_adamw", "momo", "momo_adam", "prodigy"),
    *("schedule_free_adamw", "schedule_free_sgd"),
)


def sgd():
    return optax.sgd(RATE)


OPTIMIZERS = {
    **{name: lambda name=name: getattr(optax, name)(RATE) for name in _WITH_A_RATE},
    **{
        f"contrib.{name}": lambda name=name: getattr(contrib, name)(RATE)
        for name in _CONTRIB_WITH_A_RATE
    },
    **{f"contrib.{name}": lambda name=name: getattr(contrib, name)() for name in _CONTRIB_WITHOUT},
    "lbfgs": optax.lbfgs,
    "polyak_sgd": optax.polyak_sgd,
    "contrib.dog": lambda: contrib.dog(1.0),
    "contrib.dowg": lambda: contrib.dowg(1.0),
    "contrib.mechanize": lambda: contrib.mechanize(optax.sgd(1.0)),
    "contrib.sam": lambda: contrib.sam(sgd(), sgd()),
    "contrib.sam, opaque": lambda: contrib.sam(sgd(), sgd(), opaque_mode=True),
    "contrib.schedule_free": lambda: contrib.schedule_free(sgd(), RATE),
    "contrib.reduce_on_plateau": lambda: optax.chain(sgd(), contrib.reduce_on_plateau()),
    "contrib.split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(sgd()),
    "MultiSteps": lambda: optax.MultiSteps(sgd(), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(sgd(), 3),
    "conditionally_transform": lambda: optax.conditionally_transform(sgd(), lambda *_, **__: True),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=RATE),
    "masked": lambda: optax.masked(sgd(), {"a": True, "b": True}),
    "partition": lambda: optax.partition({"x": sgd()}, {"a": "x", "b": "x"}),
    "scale_by_backtracking_linesearch": lambda: optax.chain(
        sgd(), optax.scale_by_backtracking_linesearch(5)
    ),
    "scale_by_zoom_linesearch": lambda: optax.chain(sgd(), optax.scale_by_zoom_linesearch(5)),
}
# What no scheme can use, and the name by which it is refused.
REFUSED = {
    "lookahead": (lambda: optax.lookahead(sgd(), 2, 0.5), "optax's lookahead"),
    "contrib.dpsgd": (
        lambda: contrib.dpsgd(RATE, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0),
        "optax's differentially_private_aggregate",
    ),
}


def quadratic(params, draw):
    del draw
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), ()


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:::optax")
def test_an_optimizer_lowers_a_quadratic(name):
    optimizer = OPTIMIZERS[name]()
    require_updates(optimizer, START)
    # mechanize starts at a rate of 1e-6, and others need a few updates to move at all.
    draws = jnp.zeros(2000 if name == "contrib.mechanize" else 20)
    solve = jax.jit(lambda start: inner_solve.minimize(quadratic, optimizer, start, draws))
    end = float(quadratic(solve(START), None)[0])
    assert end < 7.0


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings('ignore:"seed" is deprecated:DeprecationWarning')
def test_what_cannot_update_is_refused_by_name_at_construction(name):
    make, shown = REFUSED[name]
    with pytest.raises(TypeError, match=f"optimizer must update .* {shown}, which raises .* Use "):
        sw_jko(optimizer=make())
    with pytest.raises(TypeError, match=shown):
        swjko.icnn_jko(
            2,
            swjko.potential(lambda x: jnp.sum(x**2)),
            make(),
            step_size=0.1,
            num_inner_steps=2,
            num_samples=4,
            num_points=8,
            max_steps=1,
        )


def test_the_tables_name_all_optimizers():
    """Functions whose first argument is a learning rate are optimizers."""
    known = {name.split(",")[0] for name in (*OPTIMIZERS, *REFUSED)}
    found = set()
    for prefix, module in (("", optax), ("contrib.", contrib)):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith(("_", "scale_by", "inject")):
                arguments = inspect.signature(value).parameters
                if next(iter(arguments), "") == "learning_rate":
                    found.add(prefix + name)
    assert len(found) > 30
    assert found - known == set()


def test_an_update_gets_the_arguments_that_it_names():
    seen = {}

    def update(updates, state, params=None, *, value, grad_fn):
        seen.update(value=value, gradient=grad_fn(params))
        return jax.tree.map(lambda leaf: -0.25 * leaf, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    with jax.disable_jit():
        end = inner_solve.minimize(quadratic, optimizer, START, jnp.zeros(1))
    assert float(seen["value"]) == 7.0
    assert float(seen["gradient"]["a"][0]) == 2.0
    assert float(end["b"][0, 0]) == 0.5
