"""What there is to run on is told as it is."""

import json
import os
import platform
import sys
from importlib.metadata import version
from types import SimpleNamespace

import torch

from caa_interp import devices as module


def test_the_environment_is_json_and_tells_what_is_installed(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package-of-ours"))
    found = module.environment()
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "caa_interp": version("caa-interp"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "platform": platform.platform(),
        "packages": {"torch": version("torch")},
        "devices": module.devices(),
        "threads": module.threads(),
    }


def test_the_cpu_and_its_threads():
    cpu = module.devices()[0]
    assert cpu["name"] == "cpu"
    assert cpu["description"]
    assert cpu["memory_bytes"] > 2**28
    told = module.threads()
    assert 1 <= told["cores"] <= (os.cpu_count() or 1)
    assert told["torch"] == torch.get_num_threads()
    assert told["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS")


def test_every_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    cpu, *gpus = module.devices()
    assert cpu["name"] == "cpu"
    assert gpus == [
        {"name": f"cuda:{index}", "description": "NVIDIA H100", "memory_bytes": 80 * 10**9} for index in (0, 1)
    ]


def test_the_model_of_the_cpu(tmp_path, monkeypatch):
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n\nprocessor\t: 1\nmodel name\t: Another\n")
    monkeypatch.setattr(module, "CPU_FACTS", facts)
    monkeypatch.setattr(platform, "processor", lambda: "from Python")
    assert module._cpu() == "Some CPU: 3 GHz"
    facts.write_text("processor\t: 0\n")
    assert module._cpu() == "from Python"
    monkeypatch.setattr(module, "CPU_FACTS", tmp_path / "none")
    assert module._cpu() == "from Python"
