"""`tuner ui` as a process: what it prints, where it listens, what it imports, how it stops."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuner.cli import call
from tuner.errors import UsageError
from webui.guard import serve, server

RUN = """
import os, sys
sys.path.insert(0, {tests!r})
from webui.guard import serve
import stand_in
serve._page = lambda workspace, login: (stand_in.blocks(), {{"head": stand_in.HEAD}})
from tuner.cli import main
main(["ui", *sys.argv[1:]])
"""


@contextmanager
def ui(tmp_path, *words, **variables):
    """The process, the address that it printed, and what else it printed before."""
    code = RUN.format(tests=os.path.dirname(__file__))
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--workspace", str(tmp_path / "w"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1", **variables},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+)", line)
        assert found, (line, process.stderr.read() if process.poll() is not None else "")
        yield process, found[1].strip("[]"), int(found[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def get(port, path, host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_from_start_to_stop(tmp_path):
    port = free_port()
    with ui(tmp_path, "--port", str(port), GRADIO_ALLOWED_PATHS="/", GRADIO_SHARE="True", GRADIO_MCP_SERVER="True") as (
        process,
        host,
        there,
    ):
        assert (host, there) == ("127.0.0.1", port)
        assert get(port, "/")[0] == 200
        assert get(port, "/gradio_api/mcp/sse")[0] == 404
        place = tmp_path / "w" / "ui" / str(port)
        assert os.readlink(f"/proc/{process.pid}/cwd") == str(place / "empty")
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(), "the server imported torch"
        for folder in (tmp_path / "w", place, place / "scratch", place / "empty"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        # one event stream that would go on for ever, and one connection that says nothing
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        stream.request("GET", "/gradio_api/heartbeat/abcdefgh")
        assert stream.getresponse().readline().startswith(b"data: ALIVE")
        silent = socket.create_connection(("127.0.0.1", port))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 4  # under one second where the machine does nothing else
        stream.close()
        silent.close()
        assert process.stderr.read() == ""
        assert process.stdout.read() == ""
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_beyond_this_machine_there_is_always_a_login(tmp_path):
    with ui(tmp_path, "--host", "0.0.0.0", "--allow-host", "gpu.example") as (process, _, port):
        password = re.fullmatch(r"password: (\S+)\n", process.stdout.readline())[1]
        assert get(port, "/")[0] == 303
        assert get(port, "/", Host=f"gpu.example:{port}")[0] == 303
        assert get(port, "/", Host="gpu.other")[0] == 400
        assert "encrypted" in process.stdout.readline()
        assert get(port, "/theme.css")[0] == 401
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        files = [path for path in (tmp_path / "w").rglob("*") if path.is_file()]
        assert not [path for path in files if password.encode() in path.read_bytes()]


def test_a_password_file_takes_the_place_of_a_generated_one(tmp_path, monkeypatch):
    assert serve._password().generated
    file = tmp_path / "password"
    file.write_text("correct horse battery")
    file.chmod(0o600)
    monkeypatch.setenv("TUNER_UI_PASSWORD_FILE", str(file))
    chosen = serve._password()
    assert (chosen.text, chosen.generated) == ("correct horse battery", False)


def test_names_that_the_server_answers_to():
    local = serve.names(serve.Options())
    assert local == {"127.0.0.1", "localhost", "[::1]"}
    wide = serve.names(serve.Options(host="0.0.0.0", allow_hosts=("GPU.example:81",)))
    assert "gpu.example:81" in wide
    assert "0.0.0.0" not in wide
    assert serve.names(serve.Options(host="gpu.lan")) >= {"gpu.lan"}


@pytest.mark.parametrize("name", ["", "a b", "http://gpu", "*", "*.example", "gpu/x", "gpu:0", "gpu:x"])
def test_hosts_that_are_none_are_refused(name):
    with pytest.raises(UsageError, match="--allow-host"):
        serve.Options(allow_hosts=(name,))


def test_addresses_that_are_not_here_are_refused():
    with pytest.raises(UsageError, match="no such address"):
        server.listen("192.0.2.1", 0)
    with pytest.raises(UsageError, match="no such address"):
        server.listen("nowhere.invalid", 0)


def test_the_next_free_port_is_taken(monkeypatch, tmp_path, capsys):
    busy = server.listen("127.0.0.1", 0)
    port = busy.getsockname()[1]
    try:
        assert call(["ui", "--workspace", str(tmp_path / "w"), "--port", str(port)]) == 2
        assert f"port {port}: it is in use" in capsys.readouterr().err
        with pytest.raises(UsageError, match="it is in use"):
            server.listen("127.0.0.1", port)
        monkeypatch.setattr(server, "PORT", port)
        found = server.listen("127.0.0.1", None)
        assert port < found.getsockname()[1] < port + server.TRIED
        found.close()
    finally:
        busy.close()


def test_the_log_holds_no_token(tmp_path):
    import logging

    handlers = {
        name: list(logging.getLogger(name).handlers) for name in ("uvicorn", "asyncio", "gradio", "httpx", "httpx2")
    }
    states = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in handlers}
    try:
        serve._log_to(tmp_path / "server.log")
        logging.getLogger("uvicorn.error").error("Cancel 3 running task(s), timeout graceful shutdown exceeded")
        logging.getLogger("uvicorn.error").error("failed with %s", "hf_" + "a" * 30)
        text = (tmp_path / "server.log").read_text()
        assert "failed with" in text
        assert "hf_aaa" not in text
        assert "Cancel" not in text
    finally:
        for name, kept in handlers.items():
            logger = logging.getLogger(name)
            for handler in set(logger.handlers) - set(kept):
                handler.close()
            logger.handlers[:] = kept
            logger.level, logger.propagate = states[name]
