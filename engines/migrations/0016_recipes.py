

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('engines', '0015_downloads'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='engine',
            name='image_digest',
            field=models.CharField(blank=True, editable=False, help_text="Docker's id of the image that ran; empty: not known.", max_length=100),
        ),
        migrations.AddField(
            model_name='engine',
            name='kind',
            field=models.CharField(blank=True, db_index=True, editable=False, help_text='Alike starts: a hash.', max_length=64),
        ),
        migrations.AddField(
            model_name='engine',
            name='peak_tokens_per_s',
            field=models.FloatField(blank=True, editable=False, help_text='The most that it was seen to generate.', null=True),
        ),
        migrations.AddField(
            model_name='engine',
            name='vllm_version',
            field=models.CharField(blank=True, editable=False, help_text='As the engine said itself.', max_length=40),
        ),
        migrations.CreateModel(
            name='Recipe',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('model', models.CharField(max_length=300)),
                ('revision', models.CharField(blank=True, help_text="The commit of the model's repository, so that it stays what it was.", max_length=100)),
                ('tokenizer_revision', models.CharField(blank=True, editable=False, max_length=100)),
                ('max_model_len', models.PositiveIntegerField(blank=True, null=True)),
                ('tensor_parallel_size', models.PositiveSmallIntegerField(default=1)),
                ('seed', models.BigIntegerField(blank=True, null=True)),
                ('tokenizer', models.CharField(blank=True, max_length=300)),
                ('quantization', models.CharField(blank=True, max_length=40)),
                ('gpu_memory_utilization', models.FloatField(blank=True, help_text='Of each of its GPUs, 0 to 1; others may use the rest. Null: none may.', null=True)),
                ('launcher', models.CharField(max_length=20)),
                ('device', models.CharField(max_length=10)),
                ('image', models.CharField(blank=True, max_length=300)),
                ('image_digest', models.CharField(blank=True, editable=False, help_text="Docker's id of the image that ran; empty: not known.", max_length=100)),
                ('vllm_version', models.CharField(blank=True, editable=False, help_text='As the engine said itself.', max_length=40)),
                ('kind', models.CharField(blank=True, db_index=True, editable=False, help_text='Alike starts: a hash.', max_length=64)),
                ('name', models.CharField(max_length=80)),
                ('published', models.BooleanField(default=False, help_text='For all users; admins alone decide that.')),
                ('notes', models.TextField(blank=True, max_length=2000)),
                ('lease_hours', models.FloatField(blank=True, help_text='Of its engines; empty: as the settings say.', null=True)),
                ('idle_minutes', models.PositiveIntegerField(blank=True, help_text='Likewise.', null=True)),
                ('sleep_minutes', models.PositiveIntegerField(blank=True, help_text='Likewise.', null=True)),
                ('wakes', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('owner', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='recipes', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['name', 'pk'],
            },
        ),
        migrations.AddField(
            model_name='engine',
            name='recipe',
            field=models.ForeignKey(blank=True, editable=False, help_text='That it was started from.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='engines', to='engines.recipe'),
        ),
        migrations.AddConstraint(
            model_name='recipe',
            constraint=models.UniqueConstraint(fields=('owner', 'name'), name='recipe_name_per_owner'),
        ),
        migrations.AddConstraint(
            model_name='recipe',
            constraint=models.UniqueConstraint(condition=models.Q(('published', True)), fields=('name',), name='one_published_recipe_of_a_name'),
        ),
    ]
