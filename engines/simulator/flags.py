"""The flags of `vllm serve` 0.32 that the stand-in takes, by the kind of value they have."""

TEXT_FLAGS = """
    --allowed-headers --allowed-methods --allowed-origins --attention-backend --block-size --chat-template
    --chat-template-content-format --code-revision --compilation-config --config --config-format --convert
    --cpu-offload-gb --data-parallel-size --dcp-size --disable-access-log-for-endpoints --distributed-executor-backend
    --download-dir --dtype --generation-config --hf-config-path --hf-overrides --hf-token --kv-cache-dtype
    --kv-transfer-config --limit-mm-per-prompt --load-format --logits-processors --lora-dtype --max-cpu-loras
    --max-log-len --max-logprobs --max-lora-rank --max-loras --max-num-partial-prefills --max-parallel-loading-workers
    --media-io-kwargs --middleware --mm-processor-cache-gb --mm-processor-kwargs --model-impl
    --model-loader-extra-config --num-gpu-blocks-override --optimization-level --override-generation-config
    --performance-mode --pipeline-parallel-size --pooler-config --prefix-caching-hash-algo --reasoning-parser
    --response-role --revision --root-path --runner --safetensors-load-strategy --scheduling-policy
    --speculative-config --ssl-ca-certs --ssl-certfile --ssl-keyfile --stream-interval --structured-outputs-config
    --tokenizer --tokenizer-mode --tokenizer-revision --tool-call-parser --tool-parser-plugin --tool-server --uds
    --uvicorn-log-level
"""
INTEGER_FLAGS = """
    --api-server-count --kv-cache-memory-bytes --max-model-len --max-num-batched-tokens --max-num-seqs --port --seed
    --shutdown-timeout --tensor-parallel-size
"""
SWITCHES = """
    --async-scheduling --calculate-kv-scales --disable-cascade-attn --disable-custom-all-reduce --disable-fastapi-docs
    --disable-frontend-multiprocessing --disable-log-stats --disable-sliding-window --disable-uvicorn-access-log
    --enable-auto-tool-choice --enable-chunked-prefill --enable-expert-parallel --enable-force-include-usage
    --enable-log-outputs --enable-log-requests --enable-lora --enable-prefix-caching --enable-prompt-embeds
    --enable-prompt-tokens-details --enable-request-id-headers --enable-server-load-tracking --enable-sleep-mode
    --enable-tokenizer-info-endpoint --enforce-eager --language-model-only --skip-mm-profiling --trust-remote-code
"""
MANY = ("--served-model-name", "--api-key", "--lora-modules")
SHORT = {
    "--quantization": "-q", "--tensor-parallel-size": "-tp", "--pipeline-parallel-size": "-pp",
    "--data-parallel-size": "-dp", "--enable-expert-parallel": "-ep", "--speculative-config": "-sc",
    "--compilation-config": "-cc", "--optimization-level": "-O", "--attention-config": "-ac",
}  # fmt: skip
