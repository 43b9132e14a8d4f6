"""Official clients against a real vLLM through a portal as `make run` starts it: what they get is what the engine says,
and what they are charged is what the engine counted."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.clients.claims import ABLE, CLAIMS, Served
from tests.inference.fidelity import ask, generating, pooling
from tests.journeys.portal_process import PortalProcess, Session, counters

# A cached prefix would change the last digits of probabilities from one time to the next.
# A model of random weights that may write spaces between the parts of its JSON writes them until its end.
FLAGS = (
    "--no-enable-prefix-caching,--enable-auto-tool-choice,--tool-call-parser,hermes,"
    "--structured-outputs-config.backend=xgrammar,--structured-outputs-config.disable_any_whitespace=true"
)
TRIES = 6  # an engine that is hurried tells two tokens in one event, and not always the same two
ENOUGH = 10**8


@dataclass
class Running:
    """A portal with two engines of alice's, and the way around it."""

    portal: PortalProcess
    alice: Session
    chat_model: str
    embedding_model: str
    addresses: dict[str, str]
    """By model: the engine's own."""
    keys: dict[str, str]

    def served(self) -> Served:
        return Served(self.portal.url, self.alice.token, self.chat_model)

    def counted(self) -> tuple[int, int]:
        """What both engines have counted since their start."""
        texts = [requests.get(address + "/metrics", timeout=30).text for address in self.addresses.values()]
        pairs = [counters(text) for text in texts]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def recorded(self) -> tuple[int, int]:
        sums = "select sum(prompt_tokens) as prompt, sum(generated_tokens) as generated from inference_usagerecord"
        (row,) = self.portal.database_rows(sums)
        return row["prompt"] or 0, row["generated"] or 0

    def differences(self, model: str, questions) -> dict:
        address, direct_key = self.addresses[model], f"Bearer {self.keys[model]}"
        found = {}
        for asked in questions:
            direct, through = [], []
            for _ in range(TRIES):
                direct.append(ask(address, asked, direct_key))
                through.append(ask(self.portal.url, asked, f"Bearer {self.alice.token}"))
                if any(one in direct for one in through):
                    break
            else:
                found[str(asked)] = (direct, through)
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory, native_vllm, tiny_model, tiny_embedding_model):
    directory = tmp_path_factory.mktemp("sdks")
    portal = PortalProcess(
        directory,
        launcher="process",
        vllm_executable=native_vllm,
        device="cpu",
        hf_offline="true",
        hf_cache_dir=directory / "hf",
        allowed_model_roots=f"{tiny_model.parent},{tiny_embedding_model.parent}",
        stop_engines_on_exit="true",
        engine_extra_args=FLAGS,
        # Probabilities are compiled, for which this machine need not have a compiler that torch can use.
        engine_env='{"TORCHDYNAMO_DISABLE": "1"}',
    )
    try:
        portal.start()
        alice = portal.admin().add_user("alice", "correct horse", prompt_token_limit=ENOUGH, gen_token_limit=ENOUGH)
        chat, embed = str(tiny_model), str(tiny_embedding_model)
        for model, length in ((chat, 1024), (embed, 512)):
            accepted = alice.post("/vllm_request/start", Model=model, MAX_MODEL_LEN=length, wait=False)
            assert accepted.status_code == 202, accepted.text

        def both_ready() -> bool:
            failed = portal.database_rows("select detail from engines_engine where state = 'FAILED'")
            assert not failed, f"{failed}\n{portal.console()}"
            return len(alice.get("/active_models/").json()) == 2

        portal.wait_for(both_ready, 400, "both engines to be ready")
        rows = portal.database_rows("select model, host, port from engines_engine")
        addresses = {row["model"]: f"http://{row['host']}:{row['port']}" for row in rows}
        keys = {row["model"]: key_of_engine(row["port"]) for row in rows}
        yield Running(portal, alice, chat, embed, addresses, keys)
    finally:
        portal.stop()


def key_of_engine(port: int) -> str:
    """From the environment of the process: nobody else is told an engine's key."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"--port" not in words or words[words.index(b"--port") + 1] != b"%d" % port:
                continue
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            if variable.startswith(b"VLLM_API_KEY="):
                return variable.partition(b"=")[2].decode()
    raise AssertionError(f"no engine listens on port {port}")


@pytest.mark.parametrize("claim", CLAIMS + ABLE, ids=lambda claim: claim.__name__)
def test_a_client_works_and_is_charged_what_the_engine_counted(running, claim):
    counted, spent = running.counted(), running.alice.spent()
    claim(running.served())

    def accounted() -> bool:
        engines = [now - before for now, before in zip(running.counted(), counted, strict=True)]
        now = running.alice.spent()
        return engines == [now[0] - spent[0], now[1] - spent[1]] and running.recorded() == now

    running.portal.wait_for(accounted, 20, "the records to equal the engine's own count")


def assert_same(running: Running, model: str, questions) -> None:
    found = running.differences(model, questions)
    assert not found, "\n".join(f"{name}\n  {direct}\n  {through}" for name, (direct, through) in found.items())


def test_what_is_generated_is_the_same_as_from_the_engine_itself(running):
    assert_same(running, running.chat_model, generating(running.chat_model))


def test_vectors_and_scores_are_the_same_as_from_the_engine_itself(running):
    assert_same(running, running.embedding_model, pooling(running.embedding_model))


def test_vectors_are_charged(running):
    spent = running.alice.spent()
    with running.served().openai() as client:
        vectors = client.embeddings.create(model=running.embedding_model, input=["one", "two words"])
    assert len(vectors.data) == 2
    expected = (spent[0] + vectors.usage.prompt_tokens, spent[1])
    running.portal.wait_for(lambda: running.alice.spent() == expected, 20, "the charge for the vectors")
