"""`tuner doctor`: what it finds, and what it never tells."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from tuner import doctor

TOKEN = "hf_" + "a1B2c3D4e5F6g7H8"


def by_subject(findings):
    return {one.subject: one for one in findings}


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.11,<3", True),
        ("2.11", ">=2.11,<3", True),
        ("3.0.0", ">=2.11,<3", False),
        ("2.9.1", ">=2.11,<3", False),
        ("2.10.0", ">=2.9,<3", True),
        ("0.42.1", ">=0.42,<0.44", True),
        ("0.44.0", ">=0.42,<0.44", False),
        ("1.2.3", "==1.2.3", True),
        ("1.2.3rc1", ">=1.2", True),
        ("1.2.4", "!=1.2.4", False),
    ],
)
def test_ranges_compare_as_numbers(found, wanted, fits):
    assert doctor.satisfies(found, wanted) is fits


def test_ranges_agree_with_packaging():
    from packaging.specifiers import SpecifierSet

    for wanted in (">=2.11,<3", ">=0.42,<0.44", ">=1.0", "<5,>=4.3"):
        for found in ("0.42", "0.42.1", "0.44", "1.0", "1", "2.9", "2.11.0", "2.13.0", "3", "4.2.9", "4.3", "5.0"):
            assert doctor.satisfies(found, wanted) is SpecifierSet(wanted).contains(found), (found, wanted)


def test_this_environment_is_sound():
    found = by_subject(doctor.examine())
    assert found["python"].level == "fine"
    assert found["torch"].level == "fine"
    assert not [one for one in found.values() if one.level == "fault"]


def test_a_missing_package_is_a_fault(monkeypatch):
    def version(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    assert by_subject(doctor.versions())["peft"].level == "fault"


def test_the_torchvision_trap(monkeypatch):
    versions = {"torchvision": "0.28.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    (finding,) = doctor.torchvision()
    assert finding.level == "note"
    assert "pip uninstall torchvision" in finding.hint
    versions["torchvision"] = "0.28.0+cpu"
    (finding,) = doctor.torchvision()
    assert finding.level == "fine"


def test_the_token_is_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert by_subject(doctor.hub())["hub token"].text == "there is one, in HF_TOKEN"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert by_subject(doctor.hub())["hub token"].level == "note"
    (tmp_path / "token").write_text(TOKEN)
    found = list(doctor.hub())
    assert TOKEN not in str(found)
    assert by_subject(found)["hub token"].text == "there is one, on disk"


def test_offline_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in by_subject(doctor.hub())["hub"].text


def test_a_place_that_cannot_be_written_is_a_fault(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = by_subject(doctor.disk())
    assert found["cache"].level == "fault"
    assert "TUNER_CACHE" in found["cache"].hint


def test_a_broken_torch_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    finding = doctor.probe(gpu=False)
    assert finding.level == "fault"
    assert "libcudart" in finding.text


@pytest.mark.parametrize(
    ("said", "gpu", "level"),
    [
        ('{"cuda": true, "mps": false, "names": ["H100"], "threads": 4}', True, "fine"),
        ('{"cuda": false, "mps": false, "names": [], "threads": 4}', True, "fault"),
        ('{"cuda": false, "mps": true, "names": [], "threads": 4}', False, "fine"),
        ('{"cuda": false, "mps": false, "names": [], "threads": 4}', False, "note"),
    ],
)
def test_what_torch_finds(monkeypatch, said, gpu, level):
    monkeypatch.setattr(doctor, "PROBE", f"print({said!r})")
    assert doctor.probe(gpu=gpu).level == level


@pytest.mark.slow
def test_the_deep_look():
    found = by_subject(doctor.examine(deep=True))
    assert found["imports"].level == "fine"
    assert found["torch devices"].level in ("fine", "note")
