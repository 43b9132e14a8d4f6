"""The whole way of one user, the same for every launcher: log in, start, talk, remember, run out, stop."""

import openai
import requests

from tests.journeys.portal_process import PortalProcess, Session, counters

PROMPT_LIMIT = 5_000
GEN_LIMIT = 150


def travel(portal: PortalProcess, model: str, *, max_model_len: int, start_timeout_s: float) -> dict:
    """Goes the whole way; returns the engine as /active_models/ listed it. Fails with what the portal said."""
    alice = portal.admin().add_user(
        "alice", "correct horse", prompt_token_limit=PROMPT_LIMIT, gen_token_limit=GEN_LIMIT
    )
    bob = portal.admin().add_user("bob", "battery staple")
    engine = start(alice, model, max_model_len, start_timeout_s)
    listed = alice.get("/active_models/").json()[0]
    assert listed["engine_name"] == engine["engine_name"]
    assert alice.post("/vllm_request/active_models/").json() == {"engines": [listed]}
    assert bob.get("/active_models/").json() == []

    remembers(alice, listed)
    streams_through_the_official_client(portal, alice, model)
    assert (
        bob.post("/llm_request", model=model, prompt="hi", inference_endpoint=listed["inference_end_point"]).status_code
        == 404
    )
    runs_into_the_limit(alice, model)
    the_ledger_equals_the_engines_counters(portal, alice)
    assert portal.audit() == "all is as it must be\n"

    assert bob.post("/vllm_request/terminate", container_id=engine["container_id"]).status_code == 404
    for _ in range(2):  # the second time is no error
        ended = alice.post("/vllm_request/terminate", container_id=engine["container_id"])
        assert (ended.status_code, ended.json()) == (
            200,
            {"status": "terminated", "container_id": engine["container_id"]},
        )
    assert alice.get("/active_models/").json() == []
    assert alice.post("/v1/chat/completions", model=model, messages=[]).status_code == 404
    return listed


def start(user: Session, model: str, max_model_len: int, timeout_s: float) -> dict:
    answer = user.post(
        "/vllm_request/start",
        timeout=timeout_s,
        HUGGING_FACE_HUB_TOKEN="None",
        Model=model,
        MAX_MODEL_LEN=str(max_model_len),
        TENSOR_PARALLEL_SIZE=1,
        username=user.username,
    )
    assert answer.status_code == 200, answer.text
    engine = answer.json()
    assert engine["status"] == "healthy", f"{engine}\n{user.portal.console()}"
    assert engine["vLLM_endpoint"].startswith(user.portal.url)
    assert engine["vLLM_endpoint"].endswith("/v1/completions")
    assert engine["user_info"]["username"] == user.username
    return engine


def remembers(user: Session, engine: dict) -> None:
    """The second prompt is larger by the first turn, which so was sent along."""
    records = "select prompt_tokens from inference_usagerecord order by id"
    wish = {
        "model": engine["model_name"],
        "inference_endpoint": engine["inference_end_point"],
        "memory": True,
        "max_tokens": 12,
    }
    for prompt in ("My name is Alice.", "My name is Alice."):
        answer = user.post("/llm_request", prompt=prompt, **wish)
        assert answer.status_code == 200, answer.text
        assert answer.json()["username"] == user.username
        assert isinstance(answer.json()["data"], str)
    user.portal.wait_for(lambda: len(user.portal.database_rows(records)) == 2, 10, "both records")
    first, second = [row["prompt_tokens"] for row in user.portal.database_rows(records)]
    assert second > first + 5, "the same prompt with a turn before it has more tokens"


def streams_through_the_official_client(portal: PortalProcess, user: Session, model: str) -> None:
    client = openai.OpenAI(base_url=portal.url + "/v1", api_key=user.token, max_retries=0)
    assert [one.id for one in client.models.list()] == [model]
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say something."}], max_tokens=10, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 10
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5)
    assert answer.usage.completion_tokens == 5
    client.close()


def runs_into_the_limit(user: Session, model: str) -> None:
    """Everything up to the limit can be had, and not one token more."""
    left = GEN_LIMIT - user.spent()[1]
    ask = {"model": model, "messages": [{"role": "user", "content": "Go on."}], "ignore_eos": True}
    answer = user.post("/v1/chat/completions", max_tokens=left + 50, **ask)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == left, "max_tokens was lowered to what was left"
    refused = user.post("/v1/chat/completions", max_tokens=1, **ask)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert user.spent()[1] == GEN_LIMIT


def the_ledger_equals_the_engines_counters(portal: PortalProcess, user: Session) -> None:
    """Users' records and the portal's own probes together are what the engine itself has counted."""
    probes = "select host, port, probe_prompt_tokens, probe_generated_tokens from engines_engine where state = 'READY'"
    sums = (  # there may be no record yet
        "select coalesce(sum(prompt_tokens), 0) p, coalesce(sum(generated_tokens), 0) g, "
        "coalesce(sum(not exact), 0) inexact from inference_usagerecord"
    )
    (engine,) = portal.database_rows(probes)

    def agree() -> bool:
        (ledger,) = portal.database_rows(sums)
        metrics = requests.get(f"http://{engine['host']}:{engine['port']}/metrics", timeout=10).text
        counted = counters(metrics)
        recorded = (
            ledger["p"] + engine["probe_prompt_tokens"],
            ledger["g"] + engine["probe_generated_tokens"],
        )
        assert ledger["inexact"] == 0
        return counted == recorded and (ledger["p"], ledger["g"]) == user.spent()

    portal.wait_for(agree, 15, "the ledger to equal the engine's counters")
