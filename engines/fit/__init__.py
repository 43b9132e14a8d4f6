"""Whether a model fits, said before it is started. Imports go one way:

    source      where the model's files are described: a folder, the cache, the hub   [no database]
    shape       config.json -> what of it takes memory                                [pure]
    weights     files -> bytes of weights as vLLM holds them                          [pure]
    kv_cache    shape, length -> bytes of KV cache, as vLLM counts them               [pure]
    flags       engine_extra_args -> what of them changes memory                      [pure]
    overhead    what else vLLM takes, an estimate                                     [pure]
    lora        what it takes for adapters, an estimate                               [pure]
    log         vLLM's log -> what it measured                                        [pure]
    budget      what memory is spent on, and what is left for the KV cache            [pure]
    verdict     fits or not, and which one change would help                          [pure]
    measures    what was measured at earlier starts, as rows
    ranks       which ranks the adapters of a start have
    question    somebody asks: the parts put together

A verdict refuses no start: it is an answer, and vLLM has the last word.
"""
