"""What is remembered of how much memory starts took."""

from django.db import models


class StartMeasure(models.Model):
    """What vLLM measured of memory at the last start of this kind. `engines.fit` uses it instead of its estimate."""

    key = models.CharField(max_length=64, unique=True, help_text="SHA-256 of what makes two starts alike.")
    model = models.CharField(max_length=300, db_index=True)
    revision = models.CharField(max_length=100, blank=True)
    image = models.CharField(max_length=300, blank=True)
    device = models.CharField(max_length=10)
    gpu_name = models.CharField("GPU", max_length=100, blank=True, help_text='"" where its GPUs are not known.')
    gpu_memory_bytes = models.PositiveBigIntegerField(default=0)
    tensor_parallel_size = models.PositiveSmallIntegerField()
    quantization = models.CharField(max_length=40, blank=True, help_text="As asked for.")
    kv_cache_dtype = models.CharField("type of the KV cache", max_length=40)
    flags = models.CharField(max_length=300, blank=True, help_text="vLLM's flags that change its memory.")
    gpu_memory_utilization = models.FloatField("share of GPU memory")
    # Of each GPU; null where the log did not say.
    weights_bytes = models.PositiveBigIntegerField(null=True)
    cache_bytes = models.BigIntegerField(null=True, help_text="Below 0: it was too little to start.")
    cache_tokens = models.PositiveBigIntegerField(null=True)
    max_model_len = models.PositiveIntegerField("longest request, in tokens", null=True)
    concurrency = models.FloatField(null=True, help_text="Requests of max_model_len that fit at once.")
    measured_at = models.DateTimeField()

    class Meta:
        verbose_name = "measured start"

    def __str__(self) -> str:
        return f"{self.model} on {self.tensor_parallel_size} {self.gpu_name or self.device}"
