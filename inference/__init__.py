from vllm_portal import compiled

compiled.use()
