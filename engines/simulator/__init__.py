"""The stand-in engine: vLLM's command line, log and HTTP surface for machines without a GPU, with no model behind.

`python -m engines.simulator MODEL [vLLM's flags] [--simulate-… flags]`. It imports nothing of this project and no
Django, so that it starts at once and can be run, copied and killed like the program it stands in for.

    __main__           the process: arguments, environment, exit code
    options, flags     the command line                     startup, failures   the log of a start, good or bad
    server             listening, signals, shutting down    routes, exchange    which path, and HTTP itself
    engine             slots, pace, aborts, counting        requests            what a body must be
    generation         sends an answer                      wire, errors        the bytes of answers and refusals
    tokens             the toy tokenizer                    answers             what is said
    counters           /metrics                             misbehaviour        what can be made to go wrong
    sleep              vLLM's sleep levels
"""
