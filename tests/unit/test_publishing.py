"""Publishing to a stand-in Hub with huggingface_hub's own client: what is sent, what is refused, what goes wrong."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
from hub_stand_in import TOKEN, git_hash, start
from outcomes import CARD, by_hand

from tuner.cli import call
from tuner.errors import TunerError, UsageError
from tuner.hub_faults import HubError
from tuner.hub_token import token_place
from tuner.publishing import publish
from tuner.upload import card_licence, prepare
from tuner.watch import Watcher

REPO = "anna/dog"


@pytest.fixture(scope="module")
def server():
    hub, stop = start()
    yield hub
    stop()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """A Hub without repositories, and a user who is logged in."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    server.repos.clear()
    server.objects.clear()
    server.faults.clear()
    server.seen.clear()
    server.tokens.clear()
    server.role, server.lies = "write", lambda entry: entry
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    return server


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return by_hand(tmp_path / "runs" / "dog")


class Ears(Watcher):
    def __init__(self):
        self.heard: list[str] = []

    def warn(self, text):
        self.heard.append(text)


def local(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}


def go(run, watcher=None, *, create_pr=False, **wish):
    return publish(prepare(run, REPO, **wish), watcher or Watcher(), create_pr=create_pr)


def test_a_new_repository_is_private_and_holds_every_file(hub, run):
    done = go(run)
    assert hub.repos[REPO].private
    assert hub.repos[REPO].main == local(run)
    assert (done.private, done.account, done.licence) == (True, "anna", "creativeml-openrail-m")
    assert done.url == f"{hub.url}/{REPO}"
    assert {file["name"]: file["checked"] for file in done.files} == {
        name: "sha256" if name.endswith((".safetensors", ".png")) else "git" for name in local(run)
    }
    assert hub.tokens - {""} == {f"Bearer {TOKEN}"}


def test_a_public_one_is_asked_for(hub, run):
    assert not go(run, public=True).private
    assert not hub.repos[REPO].private


def test_a_checkpoint_is_published_instead(hub, run):
    (run / "checkpoints" / "20" / "adapter" / "dog.json").write_text("{}")
    go(run, step=20)
    assert hub.repos[REPO].main["dog.json"] == b"{}"


def test_the_same_again_sends_nothing_twice(hub, run):
    go(run)
    sent = len(hub.objects)
    hub.seen.clear()
    again = go(run)
    assert len(hub.objects) == sent
    assert not [line for line in hub.seen if line.startswith("PUT") or "/commit/" in line]
    assert len(again.files) == len(local(run))


def test_what_is_there_already_stays(hub, run):
    go(run)
    hub.repos[REPO].main["theirs.txt"] = b"keep me"
    (run / "adapter" / "dog.json").write_text("{}")
    go(run)
    assert hub.repos[REPO].main == {**local(run), "theirs.txt": b"keep me"}


def test_a_pull_request_leaves_main_as_it_was(hub, run):
    go(run)
    before = dict(hub.repos[REPO].main)
    (run / "adapter" / "dog.json").write_text("{}")
    done = go(run, create_pr=True)
    assert done.pull_request == f"{hub.url}/{REPO}/discussions/1"
    assert hub.repos[REPO].main == before
    assert hub.repos[REPO].revisions["refs/pr/1"] == local(run)


def test_a_pull_request_needs_a_repository(hub, run):
    with pytest.raises(UsageError, match="no anna/dog that a change could be suggested to"):
        go(run, create_pr=True)
    assert hub.repos == {}


def test_nothing_goes_to_a_public_repository_unless_that_is_said(hub, run):
    from hub_stand_in import Repo

    hub.repos[REPO] = Repo(private=False)
    with pytest.raises(UsageError, match="is public"):
        go(run)
    assert hub.repos[REPO].main == {}
    assert hub.objects == {}
    go(run, public=True)
    assert hub.repos[REPO].main == local(run)


def test_a_private_repository_does_not_become_public_by_itself(hub, run):
    go(run)
    ears = Ears()
    assert go(run, ears, public=True).private
    assert any("private and stays so" in line for line in ears.heard)


def test_folders_of_whole_models_keep_their_names(hub, run):
    (run / "adapter" / "model" / "unet").mkdir(parents=True)
    (run / "adapter" / "model" / "unet" / "config.json").write_text("{}")
    go(run)
    assert hub.repos[REPO].main["model/unet/config.json"] == b"{}"


# Before anything is asked


@pytest.mark.parametrize(
    "name", ["dog", "a/b/c", "anna/", "/dog", "anna/..", "anna/a--b", "anna/dog.git", "anna/d g", "anna/" + "x" * 100,
             "anna/dög", "https://huggingface.co/anna/dog", "../../etc"]
)  # fmt: skip
def test_a_name_that_none_has_is_refused_at_once(hub, run, name):
    with pytest.raises(UsageError):
        prepare(run, name)
    assert hub.seen == []


@pytest.mark.parametrize(
    ("card", "licence", "said"),
    [
        ("no front matter", None, "names no licence"),
        (CARD.replace("license", "licence"), None, "names no licence"),
        (CARD, "mit", "names the licence creativeml-openrail-m, not mit"),
        ("# x", "my own", "no licence of the Hub's"),
    ],
)
def test_the_bases_licence_has_to_be_named(hub, tmp_path, card, licence, said):
    run = by_hand(tmp_path / "dog", card=card)
    with pytest.raises(UsageError, match=said):
        prepare(run, REPO, licence=licence)
    assert hub.seen == []


@pytest.mark.parametrize("card", ["# A dog\n", "---\ntags:\n- lora\n---\n\n# A dog\n"], ids=["bare", "front"])
def test_a_licence_that_is_said_stands_on_the_card_there_and_not_here(hub, tmp_path, card):
    run = by_hand(tmp_path / "dog", card=card)
    go(run, licence="mit")
    there = hub.repos[REPO].main["README.md"].decode()
    assert card_licence(there) == "mit"
    assert there.replace("license: mit\n", "").replace("---\n---\n\n", "") == card
    assert (run / "adapter" / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (CARD, "creativeml-openrail-m"),
        ("---\nlicense: other\nlicense_name: same-as-base-model\n---\n", "other"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
        ("---\n- a\n---\n", None),
    ],
)
def test_the_licence_is_read_from_the_front_matter_alone(text, licence):
    assert card_licence(text) == licence


def test_a_run_without_whole_files_is_refused(hub, run):
    file = run / "adapter" / "dog.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TunerError, match="dog.safetensors"):
        prepare(run, REPO)
    assert hub.seen == []


@pytest.mark.parametrize(
    ("token", "offline", "said"),
    [
        ("", False, "no Hugging Face token"),
        ("   ", False, "no Hugging Face token"),
        ("hf_not a token", False, "is no token"),
        ("hf_nät", False, "is no token"),
        (TOKEN, True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_without_a_token_or_offline_nothing_is_asked(hub, run, monkeypatch, token, offline, said):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UsageError, match=said) as caught:
        go(run)
    assert not token.strip() or token not in str(caught.value)
    assert hub.seen == []


def test_where_the_token_would_come_from_is_told_and_not_what_it_is(hub, monkeypatch, tmp_path):
    assert token_place() == "HF_TOKEN"
    monkeypatch.delenv("HF_TOKEN")
    assert token_place() is None
    (tmp_path / "no-token").write_text(TOKEN)
    assert token_place() == "hf auth login"


def test_a_token_that_may_only_read_is_refused(hub, run):
    hub.role = "read"
    with pytest.raises(UsageError, match="may only read"):
        go(run)
    assert hub.repos == {}


# What the Hub answers


def gated(_path, _body):
    return 403, {"X-Error-Code": "GatedRepo"}, {"error": "Access is restricted"}


def repeated(_path, _body):
    return 403, {"X-Error-Message": f"token {TOKEN} may not"}, {"error": f"Bearer {TOKEN}"}


FAULTS = {
    "a token that is not taken": ("whoami", 401, "does not take the token"),
    "no right to create": ("repos/create", 403, "may not write to anna/dog"),
    "no right to commit": ("/commit/", 403, "may not write to anna/dog"),
    "no right to upload": ("/preupload/", 403, "may not write to anna/dog"),
    "a gated repository": ("GET /api/models", gated, "is gated"),
    "payment": ("repos/create", 402, "payment"),
    "somebody was faster": ("/commit/", 409, "changed at the same time"),
    "too large": ("PUT /lfs", 413, "larger than the Hub takes"),
    "too many requests": ("/preupload/", 429, "takes no more requests"),
    "a fault of the Hub": ("/preupload/", 503, "answered 503"),
    "a fault of the store": ("PUT /lfs", 500, "answered 500"),
    "a refusal": ("/commit/", (400, {}, {"error": "too many files"}), "it says: too many files"),
    "a card that is refused": ("validate-yaml", (400, {}, {"errors": [{"message": '"license" is wrong'}]}), "card"),
    "an upload that is refused": ("objects/batch", (200, {}, {"objects": [
        {"oid": "0" * 64, "size": 1, "error": {"code": 422, "message": "quota"}}]}), "quota"),
    "a page of some proxy": ("whoami", (200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "as the Hub does"),
    "another program": ("whoami", (200, {}, []), "as the Hub does"),
    "half an answer": ("/commit/", (200, {}, {"nothing": 1}), "as the Hub does"),
    "the token said back": ("/commit/", repeated, "may not write"),
    "gone meanwhile": ("/commit/", (404, {"X-Error-Code": "RepoNotFound"}, {"error": "x"}), "the Hub has no anna/dog"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_failure_is_one_plain_message_without_the_token(hub, run, capsys, caplog, name):
    mark, fault, said = FAULTS[name]
    hub.faults[mark] = fault
    caplog.set_level(logging.INFO)
    code = call(["publish", "dog", REPO, "--json"])
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert said in error["message"], error
    assert code in (2, 74)
    assert error["hint"]
    assert "Traceback" not in out + err
    assert "\n" not in error["message"]
    assert TOKEN not in out + err + caplog.text


def test_a_repository_that_an_organisation_forbids_is_not_made(hub, run):
    hub.faults["repos/create"] = 403
    with pytest.raises(HubError):
        go(run)
    assert hub.objects == {}


def test_a_hub_that_cannot_be_reached(hub, run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://name:secret@127.0.0.1:9")
    with pytest.raises(HubError, match=r"cannot be reached at 127\.0\.0\.1:9") as caught:
        go(run)
    assert "secret" not in str(caught.value)
    assert "network" in caught.value.hint


def test_what_was_sent_before_a_failure_is_not_sent_again(hub, run):
    hub.faults["/commit/"] = 503
    with pytest.raises(HubError):
        go(run)
    hub.faults.clear()
    hub.seen.clear()
    go(run)
    assert not [line for line in hub.seen if line.startswith("PUT")]
    assert hub.repos[REPO].main == local(run)


# What the Hub says it holds


def size(entry):
    return entry | {"size": entry["size"] + 1}


def digest(entry):
    return entry if "lfs" not in entry else entry | {"lfs": entry["lfs"] | {"oid": hashlib.sha256(b"x").hexdigest()}}


def content(entry):
    return entry if "lfs" in entry else entry | {"oid": git_hash(b"x")}


def missing(entry):
    return None if entry["path"] == "dog.png" else entry


@pytest.mark.parametrize(
    ("lie", "said"),
    [(size, "bytes there"), (digest, "another sha256"), (content, "other content"), (missing, r"dog\.png \(is not there")],
    ids=["size", "sha256", "content", "missing"],
)  # fmt: skip
def test_what_the_hub_lists_is_compared_file_by_file(hub, run, lie, said):
    hub.lies = lie
    with pytest.raises(HubError, match=said):
        go(run)


def test_files_that_the_repository_ignores_are_noticed(hub, run):
    """A .gitignore there makes the client leave them out without a word."""

    def ignored(_path, body):
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": True} for f in json.loads(body)["files"]]
        return 200, {}, {"files": files}

    hub.faults["/preupload/"] = ignored
    with pytest.raises(HubError, match="is not there"):
        go(run)


def test_the_hubs_remarks_on_the_card_are_passed_on(hub, run):
    remark = {"errors": [], "warnings": [{"message": f"empty metadata, says {TOKEN}"}]}
    hub.faults["validate-yaml"] = (200, {}, remark)
    ears = Ears()
    go(run, ears)
    assert any("empty metadata, says hf_***" in line for line in ears.heard)


def test_a_dry_run_asks_nobody(hub, run, capsys):
    assert call(["publish", "dog", REPO, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["private"] is True
    assert set(told["files"]) == set(local(run))
    assert hub.seen == []


def test_the_commands_json_is_what_stands_there(hub, run, capsys):
    assert call(["publish", "dog", REPO, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {file["name"] for file in told["files"]} == set(hub.repos[REPO].main)
    assert told["pull_request"] is None


def test_the_library_is_as_loud_as_before(hub, run):
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import logging as hub_logging

    before = are_progress_bars_disabled(), hub_logging.get_verbosity()
    go(run)
    assert (are_progress_bars_disabled(), hub_logging.get_verbosity()) == before


def test_the_token_is_no_option():
    from inspect import signature

    from tuner.commands.publish import publish as command

    assert not [name for name in signature(command).parameters if "token" in name]
