import io
import json
from datetime import UTC, datetime

import pytest
from django.core.management import call_command

from inference.models import Conversation
from tests.legacy.original import Original


@pytest.fixture
def original(tmp_path):
    return Original(tmp_path / "original")


@pytest.fixture
def take_over(original, tmp_path):
    """take_over(*flags): runs the command; (exit code, its report). Raises OperatorError."""

    def run(*flags: str, files: Original = original, memory: bool = True) -> tuple[int, dict]:
        path = tmp_path / "report.json"
        memory_flags = [f"--memory={files.memory}"] if memory else []
        out, code = io.StringIO(), 0
        try:
            call_command(
                "import_legacy", f"--users={files.users}", *memory_flags, f"--report={path}", *flags, stdout=out
            )
        except SystemExit as ended:
            code = ended.code
        report = json.loads(path.read_text())
        assert report.pop("exit_code") == code
        assert out.getvalue()
        for table, tally in report["tables"].items():
            read = tally["read"]
            assert read == sum(tally.values()) - read, f"{table}: each row has one fate"
        return code, report

    return run


@pytest.fixture
def everything():
    """everything(): all that an import writes, to be compared."""
    from accounts.models import User

    def read() -> dict:
        users = User.objects.values_list(
            "username", "password", "role", "is_active", "token_version", "token_limit__prompt_token_limit",
            "token_limit__gen_token_limit", "token_limit__prompt_token_number", "token_limit__gen_token_number",
            "conversation_counter__last_number",
        )  # fmt: skip
        talks = {
            str(talk.conversation_id): (
                talk.user.username, talk.number, talk.name, talk.title, talk.created_at, talk.updated_at,
                [(message.role, message.content) for message in talk.messages.all()],
            )
            for talk in Conversation.objects.select_related("user").prefetch_related("messages")
        }  # fmt: skip
        return {"users": sorted(users), "talks": talks}

    return read


@pytest.fixture
def now():
    return datetime(2030, 1, 1, tzinfo=UTC)
