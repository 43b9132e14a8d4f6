"""The portal's own questions to an engine: where they go, and what they cost."""

from django.db.models import F

from engines.health import Address, Proof
from engines.models import Engine
from vllm_portal.encryption import decrypt


def address_of(engine: Engine) -> Address:
    """Of one that runs. Raises OperatorError when its key cannot be read."""
    return Address(engine.host, engine.port or 0, decrypt(engine.engine_key_encrypted), engine.name)


def cost(proof: Proof) -> dict[str, F]:
    """Columns of the engine, so that users' records + these = the engine's counters."""
    return {
        "probe_prompt_tokens": F("probe_prompt_tokens") + proof.prompt_tokens,
        "probe_generated_tokens": F("probe_generated_tokens") + proof.generated_tokens,
    }


def count(engine: Engine, proof: Proof) -> None:
    """For a proof that changed nothing."""
    Engine.objects.filter(pk=engine.pk).update(**cost(proof))
