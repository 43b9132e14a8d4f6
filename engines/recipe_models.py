"""Recipes: starts to be made again exactly. `engines.recipes` makes, finds and starts them."""

from django.conf import settings
from django.db import models

from engines.start_options import StartOptions


class Recipe(StartOptions):
    """What is fixed of a start, and how long its engines stay unless the start says otherwise. No token is in it."""

    name = models.CharField(max_length=80)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="recipes"
    )
    published = models.BooleanField(default=False, help_text="For all users; admins alone decide that.")
    notes = models.TextField(max_length=2000, blank=True)
    lease_hours = models.FloatField(null=True, blank=True, help_text="Of its engines; empty: as the settings say.")
    idle_minutes = models.PositiveIntegerField(null=True, blank=True, help_text="Likewise.")
    sleep_minutes = models.PositiveIntegerField(null=True, blank=True, help_text="Likewise.")
    wakes = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "name"], name="recipe_name_per_owner"),
            models.UniqueConstraint(
                fields=["name"], condition=models.Q(published=True), name="one_published_recipe_of_a_name"
            ),
        ]

    def __str__(self) -> str:
        return self.name
