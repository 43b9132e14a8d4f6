"""Every setting of the portal: its name, type, default and meaning. `vllm_portal.config` says where they come from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vllm_portal.setting_types import AbsolutePath, PathList, StrList


class Fields(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PORTAL_", extra="forbid", frozen=True, validate_default=True)

    # The service
    host: str = Field("0.0.0.0", description="Address the web server listens on.")  # noqa: S104
    port: int = Field(8086, ge=1, le=65535, description="Port the web server listens on.")
    public_url: str | None = Field(
        None,
        description="URL of the portal as clients see it (behind a proxy); else taken from each request.",
    )
    allowed_hosts: StrList = Field(["*"], description="Host names the portal answers to.")
    trusted_origins: StrList = Field(
        [], description="Origins (https://…) whose forms are accepted, where a TLS proxy stands in front."
    )
    data_dir: AbsolutePath = Field(Path("var"), description="Database, secrets, logs, engine logs, Redis data.")
    database_url: SecretStr | None = Field(
        None, description="postgres://user:password@host/name; unset: SQLite in data_dir."
    )
    redis_url: SecretStr | None = Field(
        None, description="redis://… or unix:///…; unset: `manage.py run` starts a private one in data_dir."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the portal's log.")
    debug: bool = Field(False, description="Django's DEBUG. Never on a machine that others reach.")

    # People
    admin_username: str = Field("admin", min_length=1, description="Name of the admin made at the first start.")
    admin_password: SecretStr | None = Field(
        None, description="Password of that admin; unset: a random one, printed once at the first start."
    )
    access_token_lifetime_minutes: int = Field(720, ge=1, description="How long an access token of /token counts.")
    refresh_token_lifetime_days: int = Field(14, ge=1, description="How long a refresh token counts.")
    default_prompt_token_limit: int = Field(10_000, ge=0, description="Prompt tokens a new user may spend in total.")
    default_requests_per_minute: int | None = Field(
        6000, ge=1, description="Requests per minute of users without a limit of their own; null: as many as they like."
    )
    default_gen_token_limit: int = Field(1_000, ge=0, description="Generated tokens a new user may spend in total.")

    # Engines
    launcher: Literal["auto", "docker", "process", "simulator"] = Field(
        "auto",
        description="What runs engines; auto: docker, else vllm on the PATH, else the stand-in engine.",
    )
    device: Literal["cuda", "rocm", "cpu"] = Field("cuda", description="What vLLM engines compute on.")
    vllm_executable: str = Field("vllm", description="The `vllm` command that the process launcher runs.")
    docker_image: str = Field("vllm/vllm-openai:v0.32.0", description="Image of an engine; admins alone choose it.")
    recipe_images: StrList = Field(
        [],
        description="Images, by name or id (sha256:…), that a recipe made with one of them is started with again.",
    )
    docker_network: str | None = Field(
        None,
        description="Docker network shared with the portal; unset: a port on 127.0.0.1 that Docker picks.",
    )
    docker_volumes: dict[str, str] = Field(
        {},
        description="Where the portal is a container itself: the Docker volumes that it has at folders of its own, by "
        "folder, so that engines get the same.",
    )
    docker_shm_size: str = Field("1g", description="Shared memory of an engine's container.")
    docker_memory: str | None = Field(None, description="Memory limit of an engine's container, such as 48g.")
    docker_pids_limit: int = Field(4096, ge=64, description="Process limit of an engine's container.")
    hf_cache_dir: str = Field(
        "~/.cache/huggingface",
        description="Hugging Face cache on the engines' host (a folder or a Docker volume).",
    )
    hf_endpoint: str = Field(
        "https://huggingface.co",
        description="The Hugging Face hub (HF_ENDPOINT counts too), asked before a start.",
    )
    hf_check: bool = Field(True, description="Ask the hub about model and token before a start.")
    hf_check_timeout_s: float = Field(4.0, gt=0, description="Seconds the hub may take to answer that question.")
    hf_download: bool = Field(True, description="The portal downloads a model before its engine starts, where it can.")
    download_stall_seconds: int = Field(
        600, ge=1, description="A download without a new byte for this long has failed."
    )
    hf_offline: bool = Field(False, description="Engines use only models already in the cache (HF_HUB_OFFLINE=1).")
    compile_cache: bool = Field(True, description="Keep what engines compile, for the same owner's and image's next.")
    compile_cache_days: int | None = Field(30, ge=1, description="Unused for so long it is deleted; null: never.")
    compile_cache_gib: int | None = Field(50, ge=1, description="Most that all of it takes together; null: any.")
    allowed_model_roots: PathList = Field([], description="Folders below which a local model directory may be started.")
    trust_remote_code: bool = Field(
        False, description="Start engines with --trust-remote-code (runs the model's code)."
    )
    engine_extra_args: StrList = Field([], description="Further vLLM flags for every engine, such as --enforce-eager.")
    engine_env: dict[str, str] = Field({}, description="Further environment of every engine.")
    cpu_kv_cache_gib: int = Field(1, ge=1, description="KV cache of a CPU engine, in GiB.")
    cpu_slots: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Engines that run at once where there is no GPU, one counted as often as its tensor-parallel size; "
        "null: any number.",
    )
    engines_per_user: int = Field(8, ge=1, description="Engines one user may have at once.")
    gpus_per_user: int | None = Field(
        None, ge=1, description="GPUs that one user's engines may ask for together; null: as many as there are."
    )
    gpu_foreign_mib: int = Field(
        1024, ge=0, description="A GPU on which programs that are no engines hold more memory gets no engine."
    )
    lease_hours: float | None = Field(
        None, gt=0, description="How long an engine may run where its owner names no lease; null: until it is stopped."
    )
    lease_hours_most: float | None = Field(
        None, gt=0, description="Longest lease that a user may ask for, and extend to; null: any."
    )
    idle_stop_minutes: int | None = Field(
        None, ge=1, description="An engine without a request for so long is stopped, unless its owner says otherwise."
    )
    idle_stop_minutes_most: int | None = Field(
        None, ge=1, description="Most that an owner may say; null: any, and never."
    )
    sleep_level: int = Field(
        0,
        ge=0,
        le=2,
        description="vLLM's own sleep for idle engines, before they are stopped: it frees the GPU's memory, keeps the "
        "lease, and ends at a request within seconds. 1: the weights wait in the host's memory; 2: they are read "
        "again; 0: none sleeps. Counts for engines started from then on, and needs CUDA.",
    )
    sleep_minutes: int | None = Field(
        None,
        ge=1,
        description="An engine without a request for so long is put to that sleep, unless its owner says otherwise; "
        "null: only where its owner does.",
    )
    sleep_minutes_most: int | None = Field(
        None, ge=1, description="Most that an owner may say of that; null: any, and never."
    )
    keep_days_most: int = Field(
        7, ge=0, description="How far ahead an owner may keep an idle engine from being stopped."
    )
    reclaim_idle_minutes: int | None = Field(
        None, ge=1, description="While somebody waits for GPUs, engines idle for so long are stopped; null: never."
    )
    engine_restarts: int = Field(
        5, ge=0, le=20, description="How often in a row an engine that died after it was ready is started afresh."
    )
    asleep_days: int = Field(
        14,
        ge=0,
        description="How long an engine that was idle sleeps, and wakes at a request, before it ends; 0: not at all.",
    )
    wake_timeout_seconds: float = Field(
        300, ge=0, description="Longest wait of a request for an engine that it has woken; then 503."
    )
    wake_held_requests: int = Field(
        100, ge=0, description="Requests that wait for one engine to wake, per web process; then 503."
    )
    start_wait_seconds: float = Field(600, ge=0, description="How long /vllm_request/start waits for a healthy engine.")
    stop_wait_seconds: float = Field(60, ge=0, description="How long /vllm_request/terminate waits for the end.")
    stop_drain_seconds: int = Field(
        45,
        ge=0,
        description="How long an engine that is stopped, by somebody or by its terms, may go on with what it answers; "
        "0: not at all. With stop_grace_seconds less than stop_wait_seconds, so that who waits sees the end.",
    )
    stop_grace_seconds: int = Field(10, ge=1, description="Seconds between SIGTERM and SIGKILL of an engine.")
    pull_timeout_seconds: int = Field(3600, ge=1, description="Longest pull of an image.")
    start_timeout_seconds: int = Field(120, ge=1, description="Longest time until the container or process runs.")
    engine_log_days: int | None = Field(
        30, ge=1, description="Logs of engines that are gone are deleted after this many days; null: never."
    )
    load_stall_seconds: int = Field(
        900, ge=1, description="An engine whose log says nothing new for this long while it loads has failed."
    )
    reconcile_seconds: float = Field(2.0, gt=0, description="Pause between two looks at all engines.")
    stop_engines_on_exit: bool = Field(False, description="Ctrl-C of `manage.py run` stops the engines too.")
    simulator_args: StrList = Field([], description="Flags of the stand-in engine, such as --simulate-start-seconds=2.")

    # Requests
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request body; larger ones get 413.")
    allow_media_urls: bool = Field(
        False,
        description="Engines may fetch images, sound and video from the http and https links in a request. They fetch "
        "from where they stand, so a link to an address inside your network is read for whoever asks.",
    )
    connect_timeout_seconds: float = Field(5, gt=0, description="Longest connect to an engine.")
    first_byte_timeout_seconds: float = Field(300, gt=0, description="Longest wait for an engine's first byte.")
    idle_timeout_seconds: float = Field(60, gt=0, description="Longest silence of an engine within an answer.")
    total_timeout_seconds: float = Field(3600, gt=0, description="Longest answer.")
    write_timeout_seconds: float = Field(60, gt=0, description="Longest time a client may take no byte of its answer.")
    reservation_lease_seconds: float = Field(30, gt=1, description="Life of a reservation that nobody renews.")

    limit_wait_seconds: float = Field(
        10, ge=0, description="Longest wait for what a user's other requests hold of a limit; then 429."
    )
    limit_slice_tokens: int = Field(
        256, ge=1, description="Tokens that a stream without max_tokens reserves at a time, where little is left."
    )
    limit_waiting_requests: int = Field(100, ge=0, description="Requests of one user that may wait so.")

    web_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that pass requests on to engines; one does for thousands of streams.",
    )

    engine_requests_at_once: int = Field(
        256, ge=1, description="Requests under way at one engine; others wait in line, by user. vLLM's max_num_seqs."
    )
    engine_waiting_requests: int = Field(1000, ge=0, description="Requests that wait in line for one engine; then 429.")
    engine_wait_seconds: float = Field(60, ge=0, description="Longest wait in that line; then 429.")

    usage_flush_seconds: float = Field(0.5, gt=0, description="Pause between two writings of usage records.")
    usage_backlog_seconds: float = Field(
        5, ge=0, description="Records that wait this long for the worker are written by the web process itself."
    )

    # /llm_request
    llm_system_prompt: str = Field("You are a helpful assistant.", description="System prompt of /llm_request.")
    llm_temperature: float = Field(0.7, ge=0, le=2, description="Temperature of /llm_request.")
    llm_top_p: float = Field(0.9, gt=0, le=1, description="top_p of /llm_request.")
    llm_max_tokens: int = Field(512, ge=1, description="max_tokens of /llm_request.")

    # Conversations
    conversation_retention_days: int | None = Field(
        None, ge=1, description="Conversations without a turn for this many days are deleted; unset: never."
    )

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "Fields":
        if self.idle_timeout_seconds > self.total_timeout_seconds:
            raise ValueError("idle_timeout_seconds must not exceed total_timeout_seconds")
        for name in ("lease_hours", "idle_stop_minutes", "sleep_minutes"):
            default, most = getattr(self, name), getattr(self, f"{name}_most")
            if default is not None and most is not None and default > most:
                raise ValueError(f"{name} must not exceed {name}_most")
        sleep, stop = self.sleep_minutes, self.idle_stop_minutes
        if sleep is not None and stop is not None and sleep >= stop:
            raise ValueError("sleep_minutes must be less than idle_stop_minutes: what is stopped first never sleeps")
        return self
