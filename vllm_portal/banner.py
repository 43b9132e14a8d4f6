"""The five lines that `manage.py run` prints when the portal serves."""

from accounts.first_admin import FirstAdmin
from vllm_portal.config import Config

_MEANING = {
    "docker": "each engine is vLLM in a Docker container",
    "process": "each engine is a `vllm serve` process of this machine",
    "simulator": "SIMULATED: no model runs, answers are made up; for real ones install Docker or vLLM and start again",
}


def lines(config: Config, admin: FirstAdmin, launcher: str) -> list[str]:
    url = base_url(config)
    password = f", password {admin.password} (shown this once)" if admin.password else ""
    engines = "stops the engines too" if config.stop_engines_on_exit else "leaves engines running"
    return [
        f"Pages     {url}/",
        f"API docs  {url}/api/docs/",
        f"Admin     {url}/admin/  user {admin.username}{password}",
        f"Engines   {launcher}: {_MEANING[launcher]}",
        f"Data      {config.data_dir}  Ctrl-C stops the portal and {engines}",
    ]


def base_url(config: Config) -> str:
    if config.public_url:
        return config.public_url.rstrip("/")
    host = "localhost" if config.host in ("0.0.0.0", "::") else config.host  # noqa: S104
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
