"""Counts of launches in a program's text, and those of programs for an H100."""

import importlib.util

import pytest

from benchmarks import gpu_programs

PROGRAM = """HloModule jit_f

%body (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %p = (f32[8]{0}, s32[]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=0
  %f.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  %c.1 = f32[8]{0} custom-call(%f.1, %x), custom_call_target="__cublas$gemm"
  ROOT %t = (f32[8]{0}, s32[]) tuple(%c.1, %x)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %w = (f32[8]{0}, s32[]) while(%a), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %g = f32[8]{0} get-tuple-element(%w), index=0
  ROOT %s = f32[8]{0} sort(%g), dimensions={0}, to_apply=%less
}
"""


def test_a_loop_counts_its_body_times_its_trips():
    found = gpu_programs.launches(PROGRAM)
    assert found["kinds"] == {"fusion": 5, "__cublas$gemm": 5, "sort": 1}
    # A fusion moves 2 vectors of 32 bytes, the product 3, and the sort 2.
    assert found["gigabytes"] == pytest.approx((5 * (64 + 96) + 64) / 1e9)
    assert gpu_programs.launches(PROGRAM, 5)["launches"] == 2


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="needs jax's CUDA plugin to compile for a GPU: pip install 'jax[cuda12]'",
)
@pytest.mark.parametrize(
    ("program", "most"),
    [("debiased 1024 12 1000", 25), ("update 0", 230), ("update 2", 310)],
)
def test_programs_for_an_h100_launch_no_more_than_this(program, most):
    assert gpu_programs.measure(program)["launches"] <= most
