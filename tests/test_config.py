"""Settings: where they come from, what is refused, and that the example and the schema name each of them."""

import argparse
import re

import jsonschema
import pytest
import yaml
from pydantic import SecretStr

from vllm_portal import config_example, flags
from vllm_portal.config import Config, ConfigError, config_file, ineffective, read_config

EXAMPLE, SCHEMA = config_example.files()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """file(text): the config file that counts."""

    def write(text):
        path = tmp_path / "cluster_config.yaml"
        path.write_text(text)
        monkeypatch.setenv("PORTAL_CONFIG", str(path))
        return path

    monkeypatch.delenv("PORTAL_LAUNCHER")
    monkeypatch.delenv("PORTAL_HF_CHECK")
    monkeypatch.delenv("PORTAL_DATABASE_URL", raising=False)
    write("")
    return write


def test_without_any_source_each_setting_has_its_default(file):
    config = read_config()

    assert (config.port, config.launcher, config.database_url) == (8086, "auto", None)


def test_the_file_is_stronger_than_the_default(file):
    file("port: 8090\nallowed_hosts: [a.example, b.example]\nengine_env: {A: b}\n")

    config = read_config()

    assert config.port == 8090
    assert config.allowed_hosts == ["a.example", "b.example"]
    assert config.engine_env == {"A": "b"}


def test_the_environment_is_stronger_than_the_file(file, monkeypatch):
    file("port: 8090\n")
    monkeypatch.setenv("PORTAL_PORT", "8091")
    monkeypatch.setenv("PORTAL_ALLOWED_HOSTS", "a.example, b.example")

    assert read_config().port == 8091
    assert read_config().allowed_hosts == ["a.example", "b.example"]


def test_a_flag_is_stronger_than_the_environment(file, monkeypatch):
    monkeypatch.setenv("PORTAL_PORT", "8091")
    monkeypatch.setenv("PORTAL_ENGINE_ENV", "{}")

    flags.apply(["--port", "8092", "--engine-env", '{"A": "b"}'])

    assert read_config().port == 8092
    assert read_config().engine_env == {"A": "b"}


def test_each_setting_but_the_secrets_is_a_flag():
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)

    secret = {name for name, field in Config.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == {"database_url", "redis_url", "admin_password"}
    assert set(Config.model_fields) - secret == set(flags.SETTINGS)
    assert parser.format_help().count("\n  --") == len(flags.SETTINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: [", "is not valid YAML"),
        ("port: high", "port: "),
        ("port: 70000", "port: "),
        ("portt: 8086", "portt: no such setting"),
        ("idle_timeout_seconds: 10\ntotal_timeout_seconds: 5", "idle_timeout_seconds must not exceed"),
        ("sleep_minutes: 31\nsleep_minutes_most: 30", "sleep_minutes must not exceed sleep_minutes_most"),
        ("sleep_minutes: 60\nidle_stop_minutes: 60", "sleep_minutes must be less than idle_stop_minutes"),
        ("sleep_level: 3", "sleep_level: "),
        ("- a list", "cluster_config.yaml"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_what_to_change(file, text, expected):
    file(text)

    with pytest.raises(ConfigError) as raised:
        read_config()

    assert expected in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_wrong_file_never_repeats_a_secret(file):
    file("admin_password: [hunter22]\ndatabase_url: {a: hunter22}\n")

    with pytest.raises(ConfigError) as raised:
        read_config()

    assert "hunter22" not in str(raised.value)


def test_a_directory_in_place_of_the_file(tmp_path, file, monkeypatch):
    monkeypatch.setenv("PORTAL_CONFIG", str(tmp_path))

    assert ineffective() == [f"PORTAL_CONFIG names {tmp_path}, which is no file"]


def test_a_variable_that_must_be_json(file, monkeypatch):
    monkeypatch.setenv("PORTAL_ENGINE_ENV", "A=b")

    with pytest.raises(ConfigError, match=r"engine_env.*JSON"):
        read_config()


def test_what_has_no_effect_is_pointed_out(file, monkeypatch, tmp_path):
    monkeypatch.setenv("PORTAL_PROT", "1")
    monkeypatch.setenv("PORTAL_CONFIG", str(tmp_path / "nowhere.yaml"))

    assert ineffective() == [
        "PORTAL_PROT is no setting and has no effect",
        f"PORTAL_CONFIG names {config_file()}, which is no file",
    ]


@pytest.mark.parametrize("path", [EXAMPLE, SCHEMA], ids=lambda path: path.name)
def test_the_generated_files_are_current(path):
    assert path.read_text() == config_example.files()[path], "run: manage.py config_example"


def test_the_example_names_each_setting_with_its_default_and_nothing_else():
    text = EXAMPLE.read_text()
    values = yaml.safe_load(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))

    assert list(values) == list(Config.model_fields)
    assert values == {name: config_example.default(name) for name in Config.model_fields}
    for field in Config.model_fields.values():
        assert f"# {field.description}\n" in text


def test_the_example_as_it_is_changes_nothing(file):
    defaults = read_config()

    file(EXAMPLE.read_text())
    assert read_config() == defaults

    file(re.sub(r"^#(?=\w)", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert read_config() == defaults


def test_the_schema_accepts_the_example_and_refuses_what_is_wrong():
    schema = config_example.json.loads(SCHEMA.read_text())
    values = yaml.safe_load(re.sub(r"^#(?=\w)", "", EXAMPLE.read_text(), flags=re.MULTILINE))

    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"portt": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"launcher": "magic"}, schema)


def test_secrets_do_not_show(file, monkeypatch):
    monkeypatch.setenv("PORTAL_ADMIN_PASSWORD", "hunter22")

    config = read_config()

    assert config.admin_password == SecretStr("hunter22")
    assert "hunter22" not in repr(config)
