"""Pictures and downloads: by id, never by path; what the program wrote, and nothing beside it."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tuner.dataset import Dataset, intake
from webui import downloads, media
from webui.workspace import UnknownId, Workspace, fresh_id

RUN = "dog ä-1"


def png(side=8, colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def lora(path, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{key}.lora_A.weight": np.ones((4, 320), np.float32),
        f"{key}.lora_B.weight": np.ones((320, 4), np.float32),
    }
    save_file(tensors, path, metadata)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "w")


@pytest.fixture
def client(workspace):
    return TestClient(Starlette(routes=media.routes(workspace)), base_url="http://127.0.0.1")


@pytest.fixture
def dataset(workspace):
    made = Dataset.new(workspace.datasets / fresh_id(), 'my: dog / "x"')
    assert intake(made, "a.png", png(300))[0].accepted
    assert intake(made, "a.txt", b"a photo of sks dog")[0].accepted
    return made


@pytest.fixture
def run(workspace):
    folder = workspace.runs / RUN
    (folder / "samples" / "10").mkdir(parents=True)
    (folder / "samples" / "10" / "0.png").write_bytes(png())
    lora(folder / "adapter" / "pytorch_lora_weights.safetensors")
    lora(folder / "checkpoints" / "5" / "adapter" / "pytorch_lora_weights.safetensors")
    lora(folder / "checkpoints" / "20" / "adapter" / "pytorch_lora_weights.safetensors")
    (folder / "adapter" / "README.md").write_text("<script>")
    (folder / "recipe.yaml").write_text("train: {}")
    return folder


@pytest.fixture
def job(workspace):
    folder = workspace.jobs / fresh_id()
    (folder / "files").mkdir(parents=True)
    (folder / "log.txt").write_text("secret")
    (folder / "result.json").write_text("{}")
    (folder / "files" / "grid.png").write_bytes(png())
    (folder / "files" / "dog ä.zip").write_bytes(b"PK")
    return folder


def test_pictures_of_a_dataset(client, dataset):
    picture = dataset.contents().pictures[0]
    thumb = client.get(f"/media/thumb/{dataset.path.name}/{picture.id}")
    assert thumb.headers["content-type"] == "image/webp"
    assert "immutable" in thumb.headers["cache-control"]
    assert "private" in thumb.headers["cache-control"]
    assert Image.open(io.BytesIO(thumb.content)).size == (256, 256)
    whole = client.get(f"/media/picture/{dataset.path.name}/{picture.id}")
    assert whole.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(whole.content)).size == (300, 300)


def test_a_sample_and_that_it_did_not_change(client, run):
    found = client.get(f"/media/sample/{RUN}/10/0")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    again = client.get(f"/media/sample/{RUN}/10/0", headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (run / "samples" / "10" / "0.png").write_bytes(png(9))
    assert client.get(f"/media/sample/{RUN}/10/0", headers={"if-none-match": found.headers["etag"]}).status_code == 200
    for path in (f"{RUN}/10/1", f"{RUN}/11/0", f"{RUN}/010/0", "cat/10/0"):
        assert client.get(f"/media/sample/{path}").status_code == 404


def test_what_a_run_gives_away(workspace, run):
    (run / "adapter" / "model").mkdir()
    found = downloads.of(workspace, RUN)
    assert [(one.step, one.path.name) for one in found.files] == [
        (None, "pytorch_lora_weights.safetensors"),
        (20, "pytorch_lora_weights.safetensors"),
        (5, "pytorch_lora_weights.safetensors"),
    ]
    assert [one.filename for one in found.files][1] == "pytorch_lora_weights-step-20.safetensors"
    assert len({one.what for one in found.files}) == 3
    assert found.files[0].label.startswith("diffusers")
    assert found.files[0].bytes == found.files[0].path.stat().st_size
    assert found.whole_models == (None,)
    assert downloads.address(RUN, 20, "pytorch_lora_weights.safetensors") == found.files[1].url
    with pytest.raises(UnknownId):
        downloads.of(workspace, "../" + RUN)


def test_a_download_is_the_file_whole_or_in_parts(client, workspace, run):
    for one in downloads.of(workspace, RUN).files:
        whole = client.get(one.url)
        assert whole.content == one.path.read_bytes()
        assert whole.headers["content-type"] == "application/octet-stream"
        assert whole.headers["content-disposition"].startswith("attachment")
        part = client.get(one.url, headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
        assert client.get(one.url, headers={"range": "bytes=999999999-"}).status_code == 416
        assert client.head(one.url).headers["content-length"] == str(one.bytes)
    before = set(workspace.root.rglob("*"))
    client.get(downloads.of(workspace, RUN).files[0].url)
    assert set(workspace.root.rglob("*")) == before, "a download made a copy"


def test_files_that_a_job_made(client, job):
    assert client.get(f"/media/job/{job.name}/grid.png").headers["content-type"] == "image/png"
    packed = client.get(f"/download/job/{job.name}/dog ä.zip")
    assert packed.headers["content-type"] == "application/zip"
    assert "filename*=utf-8''dog%20%C3%A4.zip" in packed.headers["content-disposition"]
    assert client.get(f"/media/job/{job.name}/dog ä.zip").status_code == 404
    for name in ("log.txt", "result.json", "..", "files", ".hidden.png"):
        assert client.get(f"/download/job/{job.name}/{name}").status_code == 404


@pytest.mark.parametrize(
    "ending", [".html", ".svg", ".txt", ".md", ".pt", ".js", ".yaml", ".xml", "", ".PNG", ".png.html"]
)
def test_nothing_else_is_served_whatever_lies_there(client, job, run, workspace, ending):
    (job / "files" / f"x{ending}").write_text("<script>alert(1)</script>")
    (run / "adapter" / f"x{ending}").write_text("<script>alert(1)</script>")
    assert client.get(f"/media/job/{job.name}/x{ending}").status_code == 404
    assert client.get(f"/download/job/{job.name}/x{ending}").status_code == 404
    assert all(one.path.stem == "pytorch_lora_weights" for one in downloads.of(workspace, RUN).files)


def test_a_page_that_calls_itself_a_picture_is_still_a_picture(client, job):
    (job / "files" / "x.png").write_text("<script>alert(1)</script>")
    assert client.get(f"/media/job/{job.name}/x.png").headers["content-type"] == "image/png"


def test_links_are_refused_at_every_level(client, workspace, run, job, dataset, tmp_path):
    outside = tmp_path / "outside"
    (outside / "samples" / "10").mkdir(parents=True)
    (outside / "samples" / "10" / "0.png").write_bytes(png())
    lora(outside / "adapter" / "x.safetensors")
    picture = dataset.contents().pictures[0]
    thumb = dataset.thumbs / picture.thumb_name
    thumb.unlink()
    thumb.symlink_to(outside / "samples" / "10" / "0.png")
    (job / "files" / "link.png").symlink_to(outside / "samples" / "10" / "0.png")
    (run / "samples" / "11").symlink_to(outside / "samples" / "10")
    (run / "samples" / "10" / "1.png").symlink_to(outside / "samples" / "10" / "0.png")
    (run / "adapter" / "x.safetensors").symlink_to(outside / "adapter" / "x.safetensors")
    (workspace.runs / "linked").symlink_to(outside)
    other = workspace.runs / "other"
    other.mkdir()
    (other / "samples").symlink_to(outside / "samples")
    (other / "adapter").symlink_to(outside / "adapter")
    for path in (
        f"/media/thumb/{dataset.path.name}/{picture.id}",
        f"/media/job/{job.name}/link.png",
        f"/download/job/{job.name}/link.png",
        f"/media/sample/{RUN}/11/0",
        f"/media/sample/{RUN}/10/1",
        "/media/sample/linked/10/0",
        "/media/sample/other/10/0",
    ):
        assert client.get(path).status_code == 404, path
    assert not downloads.of(workspace, "other").files
    assert all(one.path.name != "x.safetensors" for one in downloads.of(workspace, RUN).files)
    assert client.get(downloads.address(RUN, None, "x.safetensors")).status_code == 404


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_file(client, job):
    os.mkfifo(job / "files" / "pipe.png")
    assert client.get(f"/media/job/{job.name}/pipe.png").status_code == 404


def test_half_written_files_are_not_there_yet(client, job, run, workspace):
    (job / "files" / ".tmp-grid.png-1-00000000").write_bytes(png())
    lora(run / "adapter" / ".tmp-x.safetensors-1-00000000.safetensors")
    assert client.get(f"/media/job/{job.name}/.tmp-grid.png-1-00000000").status_code == 404
    assert len([one for one in downloads.of(workspace, RUN).files if one.step is None]) == 1


def test_a_dataset_as_a_zip(client, dataset, workspace):
    found = client.get(f"/download/dataset/{dataset.path.name}")
    assert found.status_code == 200
    assert "my_%20dog%20_%20_x_.zip" in found.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        assert "metadata.jsonl" in archive.namelist()
        assert len(archive.namelist()) == 2
    assert found.headers["content-length"] == str(len(found.content))
    head = client.head(f"/download/dataset/{dataset.path.name}")
    assert (head.headers["content-length"], head.content) == (found.headers["content-length"], b"")
    assert client.get(f"/download/dataset/{'0' * 16}").status_code == 404


def test_packing_a_dataset_leaves_no_file_anywhere(client, dataset, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.rglob("*"))
    with client.stream("GET", f"/download/dataset/{dataset.path.name}") as found:
        assert next(found.iter_bytes(64))
        assert set(tmp_path.rglob("*")) == before
        assert client.get(f"/download/dataset/{dataset.path.name}").status_code == 200, "two at once"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\r\nX: y.zip", "aX_ y.zip"),
        ("dog\u202egnp.exe", "doggnp.exe"),
        ("", "file"),
        ("...", "file"),
        ("a" * 300, "a" * 150),
        ("Hund ä.zip", "Hund ä.zip"),
    ],
    ids=range(7),
)
def test_names_that_arrive_are_harmless(name, safe):
    assert media.safe_name(name) == safe


def test_many_files_are_listed_in_no_time(client, job):
    import time

    for i in range(600):
        (job / "files" / f"{i}.png").touch()
    began = time.perf_counter()
    assert client.get(f"/media/job/{job.name}/599.png").status_code == 200
    assert time.perf_counter() - began < 1
