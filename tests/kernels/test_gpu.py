"""The kernels on a real device, at the released model's sizes, in graphs and compiled; skipped where there is none.

The other tests of this folder run on the device too where there is one: what they prove in the interpreter, they prove
there of the compiled kernels.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.kernels.decode_attention import op as attention_op
from chexmix_cli.core.kernels.decode_attention import reference as attention_reference
from chexmix_cli.core.kernels.expected_code import op as expected_op
from chexmix_cli.core.kernels.expected_code import reference as expected_reference
from chexmix_cli.core.kernels.nearest_code import op as nearest_op
from chexmix_cli.core.kernels.nearest_code import reference as nearest_reference
from chexmix_cli.core.kernels.quantized import op as quantized_op
from chexmix_cli.core.kernels.quantized import reference as quantized
from chexmix_cli.core.kernels.quantized.panels import Panels, restored, to_panels
from chexmix_cli.core.kernels.restricted_head import op as head_op
from chexmix_cli.core.kernels.restricted_head import reference as head_reference

REPOSITORY = Path(__file__).resolve().parents[2]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("triton_backend"),
]


def normal(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


class TestOnADevice:
    pytestmark = on_gpu

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_codes_of_images(self, dtype):
        z, codebook = normal(2048, 256, dtype=dtype, seed=0), normal(8192, 256, dtype=dtype, seed=1)
        found = nearest_op.nearest_code(z, codebook)
        distance = torch.cdist(z.double(), codebook.double()).square()
        excess = [
            (distance.gather(1, codes[:, None])[:, 0] - distance.min(dim=1).values).max()
            for codes in (found, nearest_reference.nearest_code(z, codebook))
        ]
        assert float(excess[0]) <= 2 * float(excess[1]) + 1e-6 * float(distance.max())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(("states", "rows"), [(1, 50257), (16, 8192), (512, 8192), (200, 58562)])
    def test_rows_of_the_head(self, dtype, states, rows):
        x, weight, bias = (normal(*shape, dtype=dtype, seed=2) for shape in ((states, 2560), (rows, 2560), (rows,)))
        logits = x.double() @ weight.double().T + bias.double()
        given = torch.arange(states, device="cuda")
        found, plain = (part.choose_row(x, weight, bias) for part in (head_op, head_reference))
        short = [logits.amax(dim=1) - logits.gather(1, choice.row_M[:, None])[:, 0] for choice in (found, plain)]
        assert float(short[0].max()) <= 2 * float(short[1].max()) + 2e-6 * float(logits.abs().max())
        exact = logits.log_softmax(dim=1).gather(1, given[:, None])[:, 0]
        lost = [(part.row_logprob(x, weight, bias, given) - exact).abs().max() for part in (head_op, head_reference)]
        assert float(lost[0]) <= 2 * float(lost[1]) + 2e-6 * float(logits.abs().max())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_expected_codes(self, dtype):
        x, weight, bias = (normal(*shape, dtype=dtype, seed=6) for shape in ((512, 2560), (8192, 2560), (8192,)))
        codebook = normal(8192, 256, dtype=torch.float32, seed=7)
        logits = x.double() @ weight.double().T + bias.double()
        exact = (logits / 20).softmax(dim=1) @ codebook.double()
        lost = [
            (part.expected_code(x, weight, bias, codebook, temperature=20.0).vector_ME - exact).abs().max()
            for part in (expected_op, expected_reference)
        ]
        assert float(lost[0]) <= 2 * float(lost[1]) + 2e-6 * float(codebook.abs().max())

    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(("num_out", "num_in"), [(17920, 2560), (2560, 12800)])
    def test_quantised_products(self, bits, dtype, num_out, num_in):
        weight = normal(num_out, num_in, dtype=torch.float32, seed=8).cpu() / num_in**0.5
        narrow = (quantized.quantize_8 if bits == 8 else quantized.quantize_4)(weight, where="test")
        held = to_panels(*narrow)
        panels = Panels(held.weight.cuda(), held.scale.cuda(), num_out, num_in)
        numbers, bias = quantized.restore(*narrow).cuda(), normal(num_out, dtype=dtype, seed=9)
        assert torch.equal(quantized_op.restored_weights(panels, dtype), restored(panels, dtype))
        assert torch.equal(restored(panels, torch.float32), numbers)
        for num_rows in (1, 8, 9, 64, 200):
            x = normal(num_rows, num_in, dtype=dtype, seed=num_rows)
            exact = x.double() @ numbers.double().T + bias.double()
            plain = torch.nn.functional.linear(x, numbers.to(dtype), bias)
            lost = [float((y.double() - exact).abs().max()) for y in (quantized_op.product(x, panels, bias), plain)]
            assert lost[0] <= 2 * lost[1] + 1e-5, num_rows

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(("rows", "new"), [(1, 1), (8, 1), (2, 9)])
    def test_attention_to_a_cache(self, dtype, rows, new):
        q, keys, values = (normal(rows, 32, n, 80, dtype=dtype, seed=n) for n in (new, 1280, 1280))
        mask = torch.ones(rows, new, 1280, dtype=torch.bool, device="cuda").tril(1227 - new)
        exact = attention_reference.attend(q.double(), keys.double(), values.double(), mask)
        lost = [
            float((part.attend(q, keys, values, mask).double() - exact).abs().max())
            for part in (attention_op, attention_reference)
        ]
        assert lost[0] <= 2 * lost[1] + 1e-6

    def test_in_a_graph_and_compiled(self, in_one_graph):
        x, weight = normal(4, 2560, dtype=torch.bfloat16, seed=3), normal(8192, 2560, dtype=torch.bfloat16, seed=4)
        bias = normal(8192, dtype=torch.bfloat16, seed=5)
        expected = head_op.choose_row(x, weight, bias).row_M
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = head_op.choose_row(x, weight, bias).row_M
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, expected)
        compiled = in_one_graph(lambda *inputs: head_op.choose_row(*inputs).row_M, backend="inductor")
        assert torch.equal(compiled(x, weight, bias), expected)


@pytest.mark.usefixtures("triton_backend")
def test_the_benchmarks_cases_agree_with_their_references(device):
    benchmark = runpy.run_path(str(REPOSITORY / "benchmarks" / "gpu_kernels.py"))
    for case in benchmark["cases"](device, shrink=256):
        found = case.agreement()
        assert found.get("equal", 1.0) == 1.0, case.name
        assert found.get("largest_difference", 0.0) < 0.2, case.name  # logits of 20 in bfloat16
        assert case.num_bytes > 0


def test_the_benchmark_refuses_a_machine_without_one(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setattr("sys.argv", ["gpu_kernels.py"])
    assert runpy.run_path(str(REPOSITORY / "benchmarks" / "gpu_kernels.py"))["main"]() == 4
    assert "error: no CUDA device: the kernels cannot be timed on this machine" in capsys.readouterr().err
