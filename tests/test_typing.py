"""What pyright says of a script as users write it: nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import jax
import jax.numpy as jnp
import optax

import swjko
from swjko import flows


def log_prob(x: jax.Array) -> jax.Array:
    return -jnp.sum((x**2 - 1.0) ** 2)


def energy(key: jax.Array, cloud: swjko.Cloud) -> jax.Array:
    return jnp.mean(cloud.points**2)


data = jax.random.normal(jax.random.key(0), (100, 2))
adam = optax.adam(optax.cosine_decay_schedule(3e-3, 150))
schemes: list[swjko.Scheme] = [
    swjko.sw_jko(flows.coupling(2), one, adam, step_size=0.1, num_projections=4,
                 num_inner_steps=5, num_samples=8)
    for one in (
        swjko.forward_kl(data, batch_size=50),
        swjko.kl_divergence(log_prob),
        swjko.sw_to_target(data, 8),
        swjko.mmd_to_target(data, lambda x: jnp.exp(-jnp.sum(x**2))),
        swjko.weighted_sum((1.0, swjko.forward_kl(data)), (0.1, swjko.potential(jnp.sum))),
        energy,
    )
]
fitted = swjko.sw_jko(
    flows.coupling(2), swjko.forward_kl(data), optax.adam(1e-3), step_size=0.1, num_projections=4,
    num_inner_steps=5, num_samples=8,
)
schemes.append(swjko.direct_minimization(
    flows.spline(2), swjko.forward_kl(data), adam, num_inner_steps=5, num_samples=8
))
schemes.append(swjko.corrected(fitted, log_prob, adam, num_inner_steps=5))
schemes.append(swjko.annealed(
    fitted, log_prob, swjko.FlowDistribution(fitted.family, fitted.family.init(jax.random.key(1)))
))
schemes.append(swjko.particle_flow(data, drift=swjko.svgd(log_prob), step_size=0.1))
schemes.append(swjko.particle_flow(data, swjko.sw_to_target(data, 8), step_size=0.1))
schemes.append(swjko.drifting(
    flows.mlp(2, 2), swjko.sw_to_target(data, 8), adam, step_size=0.1, num_drift_steps=2,
    num_inner_steps=5, num_samples=8,
))
schemes.append(swjko.guarded(swjko.adaptive(fitted, min_step_size=0.01, max_step_size=1.0)))
schemes.append(swjko.langevin(data, log_prob, step_size=0.1))
solution = swjko.solve(jax.random.key(2), fitted, 3, callback=lambda step, state, infos: None)
state, infos = swjko.run(
    jax.random.key(3), fitted, fitted.init(jax.random.key(4)), 3, record=swjko.infos
)
cloud = swjko.sample(fitted.family, solution.state.params, jax.random.key(5), 100)
if solution.distribution is not None:
    found = swjko.importance(jax.random.key(6), solution.distribution, log_prob, 1000)
    closer = swjko.rejection(jax.random.key(7), solution.distribution, log_prob)
    print(found.verdict, closer.log_prob(cloud.points), solution.history.energy)
target = swjko.raveled(lambda at: log_prob(at["x"]), {"x": jnp.zeros(2)})
target = target.whitened(swjko.laplace(target.log_prob, target.start))
print(swjko.kl_divergence(target.log_prob), target.constrain(cloud.points)["x"])
"""


@pytest.mark.slow
def test_pyright_accepts_a_script_of_a_user(tmp_path):
    pytest.importorskip("pyright", reason="pyright is in the extra dev")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    settings = {"include": ["script.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    faults = [
        f"{one['range']['start']['line']}: {one['message']}" for one in report["generalDiagnostics"]
    ]
    assert not faults, "\n".join(faults)
