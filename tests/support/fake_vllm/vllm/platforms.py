"""The device of the stand-in."""

from types import SimpleNamespace

current_platform = SimpleNamespace(is_cpu=lambda: True, device_type="cpu")
