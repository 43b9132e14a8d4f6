"""How the API docs show `BearerAuthentication`."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class BearerScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.auth.BearerAuthentication"
    name = ["token", "key"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list]]:
        return [{name: []} for name in self.name]  # either of them

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {"type": "http", "scheme": "bearer", "description": "The access token of POST /token, or an API key."},
            {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key, sk-…"},
        ]
