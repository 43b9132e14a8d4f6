"""What was asked of vLLM, on the admin pages of engines and recipes."""

from django.contrib import admin

from engines import adapters
from engines.start_options import StartOptions

FIELDS = ("model", *("lora_adapters" if name == "adapters" else name for name in StartOptions.OPTIONS))


class OptionsShown:
    """Adapters in words: unfold colours JSON by styles within the page, which the pages' policy forbids."""

    @admin.display(description="LoRA adapters")
    def lora_adapters(self, row: StartOptions) -> str:
        return adapters.as_text(row.adapters)
