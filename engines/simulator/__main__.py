"""`python -m engines.simulator MODEL [flags]`. A program of its own: it reads its own environment."""

import os
import sys

import uvloop

from engines.simulator import server
from engines.simulator.options import parse


def main() -> None:
    dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE", "0") == "1"
    options = parse(sys.argv[1:], os.environ.get("VLLM_API_KEY", ""), dev_mode)
    code = uvloop.run(server.run(options))
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
