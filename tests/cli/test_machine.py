"""What `check` says of a machine, on machines that are made up."""

import subprocess
import sys
from collections import namedtuple

import pytest

from medrag_lightning.cli import hardware, machine, packages
from medrag_lightning.cli.hardware import GIB, Gpu, Memory

Usage = namedtuple("Usage", "total used free")


def kinds(findings):
    return [(finding.kind, finding.severity) for finding in findings]


def test_this_machine_is_described(tmp_path):
    findings, rows = machine.machine_findings(tmp_path / "runs")
    told = dict(rows)
    assert {"python", "medrag-lightning", "disk free for runs", "cores", "GPU", "threads", "model cache"} <= {*told, "GPU"}
    assert not [finding for finding in findings if finding.kind in ("package_missing", "torchvision_mismatch")]
    assert not (tmp_path / "runs").exists()


def test_neither_torch_nor_lightning_is_imported_with_it():
    code = (
        "import sys; import medrag_lightning.cli.machine, medrag_lightning.cli.plan, medrag_lightning.cli.plan_recipe; "
        "print([name for name in ('torch', 'lightning', 'jsonargparse', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (100 * GIB, []),
        (2 * GIB, [("disk_nearly_full", "warning")]),
        (GIB // 4, [("disk_nearly_full", "error")]),
    ],
)
def test_a_full_disk_is_told(monkeypatch, tmp_path, free, expected):
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert kinds(machine.disk(tmp_path / "a" / "b")[0]) == expected


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert kinds(machine.disk(tmp_path)[0]) == [("runs_not_writable", "error")]
    (tmp_path / "file").write_text("")
    monkeypatch.undo()
    assert kinds(machine.disk(tmp_path / "file")[0]) == [("runs_not_writable", "error")]


def test_a_containers_limit_counts(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 50000000 kB\n")
    (cgroup / "memory").mkdir(parents=True)
    assert hardware.memory(proc, cgroup) == Memory(64_000_000 * 1024, 50_000_000 * 1024)
    (cgroup / "memory.max").write_text("max\n")
    assert hardware.memory(proc, cgroup).total == 64_000_000 * 1024
    (cgroup / "memory.max").write_text(str(8 * GIB))
    (cgroup / "memory.current").write_text(str(6 * GIB))
    (cgroup / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    assert hardware.memory(proc, cgroup) == Memory(8 * GIB, 3 * GIB)


def test_a_containers_share_of_the_cores_counts(tmp_path):
    whole = hardware.cores(tmp_path)
    assert whole >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert hardware.cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.cores(tmp_path) == whole


def test_little_memory_little_shared_memory_and_a_busy_machine_are_told(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: Memory(4 * GIB, GIB))
    monkeypatch.setattr(machine, "disk_free", lambda path: 64 * 2**20)
    monkeypatch.setattr(machine, "load_average", lambda: 99.0)
    monkeypatch.setattr(machine, "SHARED", machine.Path("/"))
    assert [kind for kind, _ in kinds(machine.memory_and_cores()[0])] == ["memory_short", "shared_memory_short", "machine_busy"]


def test_gpus_that_torch_cannot_use_are_told(monkeypatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "gpus_of_driver", lambda: ["NVIDIA H100"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    findings, rows = machine.accelerators()
    assert kinds(findings) == [("gpu_not_usable", "warning")]
    assert "CUDA build" in findings[0].remedy
    assert rows == [("GPU", "none that torch can use")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset CUDA_VISIBLE_DEVICES" in machine.accelerators()[0][0].remedy


def test_gpus_in_use_or_without_bf16_are_told(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("H100", 80 * GIB, 79 * GIB, True), Gpu("T4", 16 * GIB, 2 * GIB, False)])
    monkeypatch.setattr(machine, "gpus_of_driver", list)
    findings, rows = machine.accelerators()
    assert [(finding.kind, finding.where) for finding in findings] == [("gpu_without_bf16", "GPU 1"), ("gpu_in_use", "GPU 1")]
    assert rows[0] == ("GPU 0", "H100, 84.8 GB of 85.9 GB free, bf16")


def test_spinning_and_too_many_threads_are_told():
    assert kinds(machine.threads({"GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "1"})[0]) == []
    assert kinds(machine.threads({})[0]) == []
    told = machine.threads({"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "999"})[0]
    assert [finding.kind for finding in told] == ["threads_spin", "threads_too_many"]
    assert kinds(machine.threads({"OMP_WAIT_POLICY": "ACTIVE"})[0]) == [("threads_spin", "warning")]


def test_the_data_folder_and_an_empty_cache_are_told(tmp_path):
    told = {"MEDRAG_DATA": str(tmp_path / "no"), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert [kind for kind, _ in kinds(machine.data_and_hub(told)[0])] == ["data_folder_missing", "hub_cache_empty"]
    (tmp_path / "hub" / "models--a--b").mkdir(parents=True)
    findings, rows = machine.data_and_hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert findings == []
    assert rows[1][1].startswith("1 models in")


def test_packages_are_held_against_their_ranges(monkeypatch):
    wanted = [packages.Wanted("torch", ">=2.10,<2.14", "runtime"), packages.Wanted("numpy", ">=2.0", "")]
    wanted += [packages.Wanted("ruff", ">=99", "dev"), packages.Wanted("nothere", "", ""), packages.Wanted("nor", "", "gpu")]
    versions = {"torch": "2.9.1+cu128", "numpy": "2.4.6", "ruff": "0.14", "packaging": "26"}
    monkeypatch.setattr(packages, "wanted_packages", lambda: (wanted, "pyproject.toml"))
    monkeypatch.setattr(packages, "installed", versions.get)
    findings, rows = packages.package_findings()
    assert kinds(findings) == [("package_version", "error"), ("package_version", "warning"), ("package_missing", "error")]
    assert "torch 2.9.1+cu128 is outside >=2.10,<2.14" in findings[0].what
    assert dict(rows)["extra gpu"] == "without nor"


def test_the_ranges_are_those_of_the_project_file():
    wanted, where = packages.wanted_packages()
    assert where == "pyproject.toml"
    assert "pillow" in {one.name for one in wanted if not one.extra}
    assert not [one for one in wanted if one.name == packages.PROJECT]


def test_installed_metadata_serves_where_there_is_no_project_file(monkeypatch, tmp_path):
    lines = ["numpy>=2.0", "torch<2.14,>=2.10; extra == 'train'", "medrag-lightning[train]; extra == 'dev'"]
    monkeypatch.setattr(packages.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    wanted, where = packages.wanted_packages()
    assert [(one.name, one.versions, one.extra) for one in wanted] == [
        ("numpy", ">=2.0", ""),
        ("torch", "<2.14,>=2.10", "train"),
    ]
    assert where == "metadata of medrag-lightning"


def test_a_torchvision_of_another_torch_is_told(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.27.0", "packaging": "26"}
    monkeypatch.setattr(packages, "installed", versions.get)
    monkeypatch.setattr(packages.metadata, "requires", lambda name: ["torch (==2.12.0)", "numpy"])
    findings = packages._torchvision()
    assert kinds(findings) == [("torchvision_mismatch", "error")]
    assert "made for torch 2.12.0" in findings[0].what
    monkeypatch.setattr(packages.metadata, "requires", lambda name: ["torch==2.13.0"])
    monkeypatch.setattr(packages.sys, "executable", "false")
    assert "cannot be imported" in packages._torchvision()[0].what
    monkeypatch.setattr(packages.sys, "executable", "true")
    assert packages._torchvision() == []
