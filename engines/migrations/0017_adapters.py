

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('engines', '0016_recipes'),
    ]

    operations = [
        migrations.AddField(
            model_name='engine',
            name='adapters',
            field=models.JSONField(blank=True, default=list, help_text='LoRA adapters: name, model and revision of each.'),
        ),
        migrations.AddField(
            model_name='recipe',
            name='adapters',
            field=models.JSONField(blank=True, default=list, help_text='LoRA adapters: name, model and revision of each.'),
        ),
    ]
