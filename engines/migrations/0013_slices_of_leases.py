from django.db import migrations

SLICES = 20


def slice_leases(apps, schema_editor):
    """A lease from before is of a whole GPU."""
    lease, part = (apps.get_model("engines", name) for name in ("GpuLease", "GpuSlice"))
    part.objects.bulk_create(
        part(gpu_id=row.gpu_id, number=number, lease_id=row.pk)
        for row in lease.objects.filter(parts=None)
        for number in range(SLICES)
    )


class Migration(migrations.Migration):
    dependencies = [("engines", "0012_gpu_slices")]

    operations = [migrations.RunPython(slice_leases, migrations.RunPython.noop)]
