"""What fits, why not, and what would help."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.fit.budget import ESTIMATED, MEASURED, Host, Model, Place, Start, Wish, budget
from engines.fit.flags import GIB, MemoryFlags, batch_defaults, read_flags
from engines.fit.kv_cache import CacheSettings, longest_that_fits, needed_bytes
from engines.fit.log import Measured
from engines.fit.lora import Lora, buffer_bytes
from engines.fit.shape import Layers, Shape, ShapeUnknown, read_shape
from engines.fit.verdict import divides, judge, parallel_sizes
from engines.fit.weights import Weights
from tests.engines.fit.published import CONFIGS

LLAMA_8B = Model(read_shape(CONFIGS["meta-llama/Llama-3.1-8B"]), Weights(16_060_522_496, {"BF16": 8_030_261_248}))
LLAMA_70B = Model(read_shape(CONFIGS["meta-llama/Llama-3.1-70B"]), Weights(141_107_412_992, {"BF16": 70_553_706_496}))
HOST = Host()


def gpus(gib, count=1, free=None, name="GPU"):
    return Place("cuda", name, int(gib * GIB), count, count if free is None else free)


def fields(verdict):
    return {change.field: change.value for change in verdict.changes}


def test_what_fits_says_how_much_of_it():
    verdict = judge(LLAMA_8B, Wish(8192), gpus(24), HOST)
    assert (verdict.fits, verdict.basis, verdict.problem, verdict.changes) == (True, ESTIMATED, "", ())
    assert verdict.needed_bytes == GIB
    assert verdict.requests_at_once == verdict.cache_bytes // GIB == 4
    spent = verdict.weights_bytes + verdict.overhead_bytes + verdict.cache_bytes
    assert spent == int(verdict.place.memory_bytes * 0.92)
    assert 8192 < verdict.max_model_len < 131_072


def test_a_request_that_is_too_long_is_told_the_length_that_is_not():
    verdict = judge(LLAMA_8B, Wish(), gpus(24), HOST)
    assert not verdict.fits
    assert "131072 tokens needs 16.0 GiB" in verdict.problem
    length = fields(verdict)["max_model_len"]
    assert judge(LLAMA_8B, Wish(length), gpus(24), HOST).fits
    assert not judge(LLAMA_8B, Wish(length + 16), gpus(24), HOST).fits


@pytest.mark.parametrize(
    ("place", "wish", "changes"),
    [
        (gpus(24, 4), Wish(131_072), {"max_model_len", "tensor_parallel_size"}),
        (gpus(24), Wish(45_000), {"max_model_len", "kv_cache_dtype", "quantization"}),
        (gpus(16), Wish(2048), {"quantization"}),
        (gpus(16, 2), Wish(2048), {"quantization", "tensor_parallel_size"}),
        (gpus(4), Wish(2048), {"model"}),
    ],
)
def test_each_change_that_is_named_is_enough_by_itself(place, wish, changes):
    verdict = judge(LLAMA_8B, wish, place, HOST)
    assert not verdict.fits
    assert {change.field for change in verdict.changes} == changes
    for change in verdict.changes:
        if change.field != "model":
            assert judge(LLAMA_8B, replace(wish, **{change.field: change.value}), place, HOST).fits, change


def test_the_smaller_model_that_is_named_fits():
    verdict = judge(LLAMA_8B, Wish(2048), gpus(8), HOST)
    (change,) = [change for change in verdict.changes if change.field == "model"] or [None]
    assert change is None or "GiB of weights" in change.text
    small = replace(LLAMA_8B, weights=Weights(int(2 * GIB)))
    assert judge(small, Wish(2048), gpus(8), HOST).fits


def test_gpus_that_cannot_share_the_heads_are_named():
    verdict = judge(LLAMA_70B, Wish(8192, 3), gpus(80, 8), HOST)
    assert not verdict.fits
    assert "3 GPUs cannot share the model's 64 attention heads and 8 KV heads" in verdict.problem
    assert "1, 2, 4, 8" in verdict.problem
    assert fields(verdict)["tensor_parallel_size"] in (2, 4)


def test_more_gpus_than_there_are_is_a_problem_of_its_own():
    verdict = judge(LLAMA_70B, Wish(8192, 8), gpus(80, 4), HOST)
    assert verdict.problem == "It asks for 8 GPUs, and there are 4 of this kind."
    assert fields(verdict) == {"tensor_parallel_size": 4}


def test_a_length_above_the_models_own_is_refused_as_vllm_does():
    verdict = judge(LLAMA_8B, Wish(200_000), gpus(141), HOST)
    assert "which is 131072" in verdict.problem
    assert fields(verdict) == {"max_model_len": 131_072}


def test_without_weights_or_memory_nothing_is_claimed():
    unknown = replace(LLAMA_8B, weights=None)
    assert judge(unknown, Wish(2048), gpus(80), HOST).fits is None
    assert judge(LLAMA_8B, Wish(2048), gpus(0), HOST).fits is None
    assert judge(unknown, Wish(2048), Place("cpu", "CPU", 64 * GIB, 8, 8), HOST).fits is None
    assert judge(unknown, Wish(2048, 3), gpus(80, 4), HOST).fits is False  # the heads say so


def test_a_model_that_keeps_nothing_fits_as_often_as_vllm_takes_requests():
    bert = read_shape({"model_type": "bert", "hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 30_522})
    verdict = judge(Model(bert, Weights(GIB)), Wish(512), gpus(24), HOST)
    assert (verdict.fits, verdict.needed_bytes, verdict.requests_at_once) == (True, 0, 256)


class TestOnACpu:
    place = Place("cpu", "CPU", 64 * GIB, 8, 8)

    def test_the_kv_cache_is_as_large_as_the_operator_says(self):
        verdict = judge(LLAMA_8B, Wish(8192), self.place, Host(cpu_kv_cache_bytes=4 * GIB))
        assert (verdict.fits, verdict.cache_bytes, verdict.requests_at_once) == (True, 4 * GIB, 4)

    def test_too_little_of_it_names_the_setting(self):
        verdict = judge(LLAMA_8B, Wish(32_768), self.place, HOST)
        assert fields(verdict) == {"max_model_len": 8192, "cpu_kv_cache_gib": 4, "tensor_parallel_size": 4}

    def test_too_little_memory_for_all_of_it_fits_nothing(self):
        verdict = judge(LLAMA_8B, Wish(512), replace(self.place, memory_bytes=16 * GIB), HOST)
        assert not verdict.fits
        assert "more than there is" in verdict.problem
        assert judge(LLAMA_8B, Wish(512), replace(self.place, memory_bytes=0), HOST).fits  # nobody knows


def start(cache_gib=10.0, gib=80, name="H100", **other):
    told = {"weights_bytes": 15 * GIB, "cache_bytes": int(cache_gib * GIB), "max_model_len": 8192, "concurrency": 10.0}
    values = {
        "tensor_parallel_size": 1, "quantization": "", "kv_cache_dtype": "auto", "utilization": 0.92,
        "device": "cuda", "gpu_name": name, "gpu_memory_bytes": gib * GIB,
    } | {key: other.pop(key) for key in list(other) if key not in told}  # fmt: skip
    return Start(Measured(**{**told, **other}), **values)


class TestMeasured:
    place = gpus(80, name="H100")

    def judge(self, *starts, wish=Wish(8192), place=None, host=HOST):
        return judge(replace(LLAMA_8B, starts=starts), wish, place or self.place, host)

    def test_what_a_start_left_for_the_kv_cache_goes_before_the_estimate(self):
        verdict = self.judge(start())
        assert (verdict.basis, verdict.cache_bytes, verdict.requests_at_once) == (MEASURED, 10 * GIB, 10)
        assert verdict.weights_bytes == 15 * GIB

    def test_the_latest_counts(self):
        assert self.judge(start(20), start(10)).cache_bytes == 20 * GIB

    @pytest.mark.parametrize(
        "other", [{"tensor_parallel_size": 2}, {"quantization": "fp8"}, {"device": "rocm"}, {"gpu_name": "H200"}]
    )
    def test_a_start_of_another_kind_does_not_count(self, other):
        assert self.judge(start(**other)).basis == ESTIMATED

    def test_on_other_gpus_only_its_weights_do(self):
        verdict = self.judge(start(), place=gpus(24, name="L4"))
        assert (verdict.basis, verdict.weights_bytes) == (ESTIMATED, 15 * GIB)

    def test_more_of_the_gpu_than_at_that_start_is_more_kv_cache(self):
        verdict = self.judge(start(), host=Host(MemoryFlags(utilization=0.97)))
        assert verdict.cache_bytes == pytest.approx(14 * GIB, abs=1)

    def test_a_start_that_needed_more_for_a_request_corrects_what_one_needs(self):
        verdict = self.judge(start(concurrency=5.0))
        assert (verdict.needed_bytes, verdict.requests_at_once) == (2 * GIB, 5)
        assert verdict.max_model_len == 40_960  # a fifth of the length for twice the need

    def test_with_another_kv_cache_it_does_not(self):
        verdict = self.judge(start(concurrency=5.0), wish=Wish(8192, kv_cache_dtype="fp8"))
        assert verdict.needed_bytes == GIB // 2
        assert verdict.cache_bytes == 10 * GIB

    def test_a_start_that_failed_for_want_of_memory_says_so_beforehand(self):
        verdict = self.judge(start(-2.14, concurrency=None, max_model_len=None))
        assert (verdict.fits, verdict.basis) == (False, MEASURED)
        assert "nothing is left for requests" in verdict.problem


class TestFlags:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], MemoryFlags()),
            (["--gpu-memory-utilization=0.5"], MemoryFlags(utilization=0.5)),
            (["--gpu_memory_utilization", "0.5", "--seed", "1"], MemoryFlags(utilization=0.5)),
            (["--device-memory-utilization", "0.4"], MemoryFlags(utilization=0.4)),
            (["--gpu-memory-utilization", "7"], MemoryFlags()),
            (["--gpu-memory-utilization", "nan", "--max-num-seqs", "--revision=v1"], MemoryFlags(revision="v1")),
            (["--max-num-batched-tokens", "2k"], MemoryFlags(batched_tokens=2000, text="--max-num-batched-tokens=2k")),
            (["--max-num-seqs=inf"], MemoryFlags(text="--max-num-seqs=inf")),
            (["--max-num-seqs=16"], MemoryFlags(sequences=16, text="--max-num-seqs=16")),
            (["--enforce-eager"], MemoryFlags(eager=True, text="--enforce-eager")),
            (["--enforce-eager", "--no-enforce-eager"], MemoryFlags()),
            (["--kv-cache-dtype", "fp8"], MemoryFlags(kv_cache_dtype="fp8", text="--kv-cache-dtype=fp8")),
            (["--trust-remote-code", "0.5"], MemoryFlags()),
        ],
    )
    def test_what_of_them_changes_memory(self, words, expected):
        assert read_flags(words) == expected

    def test_they_change_the_verdict(self):
        def fits(*words):
            return judge(LLAMA_8B, Wish(45_000), gpus(24), Host(read_flags(words))).fits

        assert not fits()
        assert fits("--kv-cache-dtype=fp8")
        assert fits("--gpu-memory-utilization=0.99", "--enforce-eager", "--max-num-seqs=8")
        assert not fits("--gpu-memory-utilization=0.5", "--kv-cache-dtype=fp8")
        assert fits("--kv-cache-memory-bytes=6G")
        assert not fits("--kv-cache-memory-bytes=16G")  # which is more than the GPU has left

    def test_batches_are_those_of_vllm(self):
        """`EngineArgs.get_batch_defaults` of 0.32, for its server."""
        assert batch_defaults(80 * GIB, "NVIDIA H100", "cuda", 1) == (8192, 1024)
        assert batch_defaults(80 * GIB, "NVIDIA A100-SXM4-80GB", "cuda", 1) == (2048, 256)
        assert batch_defaults(180 * GIB, "NVIDIA B200", "cuda", 1) == (16384, 1024)
        assert batch_defaults(24 * GIB, "NVIDIA L4", "cuda", 1) == (2048, 256)
        assert batch_defaults(0, "CPU", "cpu", 2) == (4096, 256)


# Any shape that a file may have, and questions about it.

LAYERS = st.builds(
    Layers,
    count=st.integers(1, 130),
    kv_heads=st.integers(1, 128),
    values=st.integers(1, 1024),
    window=st.one_of(st.none(), st.integers(1, 40_000)),
    chunked=st.booleans(),
)
SHAPES = st.builds(
    Shape,
    model_type=st.just("any"),
    layers=st.lists(LAYERS, max_size=3).map(tuple),
    attention_heads=st.integers(1, 256),
    kv_heads=st.integers(1, 128),
    hidden_size=st.integers(1, 20_000),
    intermediate_size=st.integers(0, 60_000),
    vocab_size=st.integers(0, 300_000),
    tied_embeddings=st.booleans(),
    max_model_len=st.one_of(st.none(), st.integers(1, 2_000_000)),
    default_max_model_len=st.integers(1, 2_000_000),
    quantization=st.sampled_from(["", "fp8"]),
    fp8_kv_cache=st.booleans(),
)
SIZES = st.integers(0, 2**40)
HOSTS = st.builds(
    Host,
    st.builds(MemoryFlags, utilization=st.floats(0.1, 1), batched_tokens=st.integers(16, 32_768),
              sequences=st.integers(1, 1024), eager=st.booleans()),
    st.integers(GIB, 64 * GIB),
)  # fmt: skip
WISHES = st.builds(
    Wish, st.one_of(st.none(), st.integers(1, 2_000_000)), st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from(["", "fp8", "awq"]), st.sampled_from(["auto", "fp8"]),
)  # fmt: skip
QUIET = settings(max_examples=150, derandomize=True, deadline=None)


@QUIET
@given(SHAPES, st.integers(0, 300_000), st.integers(0, 300_000), st.sampled_from([1, 2, 8]), st.integers(0, 32_768))
def test_a_longer_request_never_needs_less(shape, one, other, gpus_, batched):
    how = CacheSettings(2, gpus_, batched)
    assert needed_bytes(shape, min(one, other), how) <= needed_bytes(shape, max(one, other), how)


@QUIET
@given(SHAPES, SIZES, st.integers(1, 300_000), st.integers(0, 32_768), st.sampled_from([1.0, 0.5, 3.7]))
def test_the_longest_that_fits_fits_and_a_longer_one_does_not(shape, available, limit, batched, factor):
    how = CacheSettings(2, 1, batched)
    longest = longest_that_fits(shape, available, limit, how, factor)
    assert 0 <= longest <= limit
    if longest:
        assert needed_bytes(shape, longest, how) * factor <= available
    if longest < limit:
        assert needed_bytes(shape, longest + 1, how) * factor > available


@QUIET
@given(SHAPES, SIZES, SIZES, SIZES, WISHES, HOSTS, st.sampled_from(["cuda", "cpu"]), st.integers(1, 8))
def test_more_memory_never_fits_less(shape, stored, one, other, wish, host, device, count):
    """With the same batches: vLLM itself takes larger ones, and with them more overhead, on GPUs of 70 GiB and more."""
    model = Model(shape, Weights(stored))
    less, more = (
        judge(model, wish, Place(device, "GPU", max(size, 1), count, count), host) for size in sorted((one, other))
    )
    assert (more.fits is True) >= (less.fits is True)
    assert more.max_model_len >= less.max_model_len
    assert more.requests_at_once >= less.requests_at_once


@QUIET
@given(SHAPES, SIZES, SIZES, WISHES, HOSTS, st.integers(1, 2_000_000), st.integers(1, 2_000_000))
def test_a_longer_request_never_fits_where_a_shorter_does_not(shape, stored, memory, wish, host, one, other):
    model, place = Model(shape, Weights(stored)), Place("cuda", "GPU", memory + 1, 8, 8)
    short, long = (judge(model, replace(wish, max_model_len=length), place, host) for length in sorted((one, other)))
    assert (short.fits is True) >= (long.fits is True)
    assert short.requests_at_once >= long.requests_at_once


@QUIET
@given(SHAPES, SIZES, SIZES, WISHES, HOSTS, st.sampled_from(["cuda", "cpu"]), st.integers(1, 8))
def test_every_change_helps_and_what_fits_needs_none(shape, stored, memory, wish, host, device, count):
    model, place = Model(shape, Weights(stored)), Place(device, "GPU", memory + 1, count, count)
    verdict = judge(model, wish, place, host)
    assert bool(verdict.problem) == (verdict.fits is False)
    assert verdict.fits is False or not verdict.changes
    for change in verdict.changes:
        if change.field == "cpu_kv_cache_gib":
            assert judge(model, wish, place, replace(host, cpu_kv_cache_bytes=change.value * GIB)).fits
        elif change.field != "model":
            assert judge(model, replace(wish, **{change.field: change.value}), place, host).fits
    if divides(shape, wish.tensor_parallel_size):
        assert wish.tensor_parallel_size in parallel_sizes(shape, 8)
    assert budget(model, wish, place, host).overhead >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)
NAMES = sorted({name for config in CONFIGS.values() for name in [*config, *config.get("text_config", {})]})


@QUIET
@given(
    st.sampled_from(sorted(CONFIGS)), st.dictionaries(st.sampled_from([*NAMES, "linear_attn_config"]), JSON, max_size=6)
)
def test_a_file_with_anything_in_it_gives_a_shape_or_says_why_not(model, changes):
    config = {**CONFIGS[model], **changes}
    with contextlib.suppress(ShapeUnknown):
        judge(Model(read_shape(config), Weights(GIB)), Wish(), gpus(24, 4), HOST)


class TestAdapters:
    """What vLLM 0.32 allocates for them, counted by hand from its layers."""

    @pytest.mark.parametrize(
        ("slots", "rank", "size", "numbers"),
        [
            # Of a layer: q 4096+4096, k and v 2*(4096+1024), o 4096+4096, gate and up 2*(4096+14336), down 14336+4096;
            # then the embedding and the head, 2*(4096+128256).
            (1, 16, 1, 32 * (8192 + 10240 + 8192 + 36864 + 18432) + 264_704),
            (4, 64, 1, 32 * (8192 + 10240 + 8192 + 36864 + 18432) + 264_704),
            # Shared by two: one matrix of each pair is halved.
            (1, 16, 2, 32 * (6144 + 9216 + 6144 + 22528 + 11264) + 264_704),
        ],
    )
    def test_it_is_as_vllm_allocates_it(self, slots, rank, size, numbers):
        assert buffer_bytes(LLAMA_8B.shape, Lora(slots, rank), size) == slots * rank * 2 * numbers

    def test_it_is_what_a_real_vllm_allocated(self):
        """0.32 on a CPU: the sum of all lora_a_stacked and lora_b_stacked, with --max-loras 3 --max-lora-rank 32."""
        tiny = {
            "model_type": "llama", "num_hidden_layers": 24, "hidden_size": 128, "intermediate_size": 256,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024,
        }  # fmt: skip
        assert buffer_bytes(read_shape(tiny), Lora(3, 32), 1) == 9_879_552

    def test_each_expert_has_some(self):
        config = {**CONFIGS["Qwen/Qwen3-30B-A3B"], "num_experts": 128}
        dense, experts = (read_shape(one) for one in (CONFIGS["Qwen/Qwen3-30B-A3B"], config))
        assert (experts.experts, experts.expert_size) == (128, 768)
        assert buffer_bytes(experts, Lora(1, 16), 1) > 15 * buffer_bytes(dense, Lora(1, 16), 1)

    def test_they_take_from_the_kv_cache(self):
        without = judge(LLAMA_8B, Wish(8192), gpus(24), HOST)
        verdict = judge(LLAMA_8B, Wish(8192, lora=Lora(2, 16)), gpus(24), HOST)
        assert (without.adapters_bytes, verdict.adapters_bytes) == (0, buffer_bytes(LLAMA_8B.shape, Lora(2, 16), 1))
        assert verdict.cache_bytes == without.cache_bytes - verdict.adapters_bytes

    def test_too_many_are_told_and_leaving_them_out_is_a_change(self):
        wish = Wish(8192, lora=Lora(8, 512))
        verdict = judge(LLAMA_8B, wish, gpus(24), HOST)
        assert verdict.fits is False
        assert "adapters (22.0 GiB)" in verdict.problem
        assert fields(verdict)["adapters"] is None

    def test_a_start_without_them_that_was_measured_is_the_base(self):
        place, lora = gpus(24, name="L4"), Lora(1, 64)
        measured = Measured(15 * GIB, 5 * GIB, 40_000, 8192, 5.0)
        start = Start(measured, 1, "", "auto", 0.92, "cuda", "L4", 24 * GIB)
        model = replace(LLAMA_8B, starts=[start])
        found = budget(model, Wish(8192, lora=lora), place, HOST)
        room = buffer_bytes(model.shape, lora, 1)
        assert (found.cache, found.adapters, found.basis) == (5 * GIB - room, room, ESTIMATED)
        own = replace(start, lora=lora, measured=replace(measured, cache_bytes=4 * GIB))
        found = budget(replace(model, starts=[start, own]), Wish(8192, lora=lora), place, HOST)
        assert (found.cache, found.adapters, found.basis) == (4 * GIB, 0, MEASURED)
        assert budget(replace(model, starts=[own]), Wish(8192), place, HOST).basis == ESTIMATED

    def test_on_a_cpu_each_worker_has_them(self):
        place = Place("cpu", "CPU", 20 * GIB, 8, 8)
        without, within = (judge(LLAMA_8B, Wish(2048, lora=lora), place, HOST) for lora in (None, Lora(8, 512)))
        assert (without.fits, within.fits) == (True, False)
