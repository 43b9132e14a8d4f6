"""What `/api/v1/nodes` gives."""

from rest_framework import serializers


class GpuHolderSerializer(serializers.Serializer):
    name = serializers.CharField()
    gpu_memory_share = serializers.FloatField(help_text="Of its memory, which the engine holds; 1: all.")


class GpuSerializer(serializers.Serializer):
    index = serializers.IntegerField()
    uuid = serializers.CharField()
    name = serializers.CharField()
    memory_bytes = serializers.IntegerField()
    memory_used_bytes = serializers.IntegerField(allow_null=True, help_text="null, as below: it does not say.")
    utilization_percent = serializers.IntegerField(allow_null=True, help_text="Of the last moment's time.")
    temperature_c = serializers.IntegerField(allow_null=True)
    foreign_memory_bytes = serializers.IntegerField(help_text="Held by programs that are no engines.")
    engines = GpuHolderSerializer(many=True, help_text="That hold it, or parts of it; empty: free.")


class CpuSlotsSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    free = serializers.IntegerField()


class NodeSerializer(serializers.Serializer):
    """A machine that runs engines."""

    id = serializers.CharField()
    launcher = serializers.CharField(help_text="How engines are run: docker, process or simulator.")
    device = serializers.CharField(help_text="cuda, rocm or cpu.")
    gpus = GpuSerializer(many=True)
    cpu_slots = CpuSlotsSerializer(allow_null=True, help_text="For engines without a GPU; null: any number may run.")
    engines = serializers.ListField(child=serializers.CharField(), help_text="Names of yours here; for admins of all.")


class NodePageSerializer(serializers.Serializer):
    """All nodes are on one page."""

    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)
    results = NodeSerializer(many=True)
