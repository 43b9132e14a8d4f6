"""What the stand-in says of itself."""

import re


def test_health_and_ping_are_empty(engine):
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        answer = engine.request(method, path)
        assert (answer.status, answer.data) == (200, b"")


def test_the_version_says_that_it_is_simulated(engine):
    assert engine.get("/version").json() == {"version": "0.32.0-simulated"}


def test_models_has_each_served_name(engine):
    listed = engine.get("/v1/models").json()
    assert [(card["id"], card["root"], card["max_model_len"]) for card in listed["data"]] == [
        ("tiny", "acme/tiny", 8192),
        ("alias", "acme/tiny", 8192),
    ]
    assert listed["object"] == "list"
    assert listed["data"][0]["owned_by"] == "vllm"


def test_metrics_have_vllm_s_names(engine):
    engine.chat(max_tokens=1)
    rows = engine.get("/metrics").data.decode()
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total",
        "generation_tokens_total", "num_preemptions_total", "prefix_cache_queries_total", "prefix_cache_hits_total",
        "prompt_tokens_cached_total", "time_to_first_token_seconds_bucket", "e2e_request_latency_seconds_sum",
        "generation_tokens_created",
    ):  # fmt: skip
        row = rf'^vllm:{name}{{engine="0",(le="[^"]+",)?model_name="tiny"}} [0-9.e+-]+$'
        assert re.search(row, rows, re.MULTILINE), name
    assert re.search(r'^vllm:cache_config_info{.*num_gpu_blocks="\d+"} 1.0$', rows, re.MULTILINE)
    assert 'finished_reason="repetition"' in rows
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"}' in rows


def test_adapters_are_models_with_a_parent(start):
    modules = ['{"name": "sql", "path": "acme/sql", "base_model_name": "tiny"}', "law=acme/law"]
    engine = start("--served-model-name", "tiny", "alias", "--enable-lora", "--lora-modules", *modules)
    listed = engine.get("/v1/models").json()["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in listed] == [
        ("tiny", "acme/tiny", None), ("alias", "acme/tiny", None), ("sql", "acme/sql", "tiny"),
        ("law", "acme/law", "tiny"),
    ]  # fmt: skip
    assert engine.chat(model="sql", max_tokens=1).json()["model"] == "sql"
    assert engine.chat(model="other", max_tokens=1).status == 404
