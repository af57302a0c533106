"""`docs/examples/onnx_predict.py` as a process: pictures in, JSON out, also over HTTP.

The file is made by hand, so that what the example has to find is known: one object a picture, of
which the red, green and blue of its pixels tell the right, the bottom and the score.
"""

import http.client
import json
import re
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "onnx_predict.py"
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write_model(path, size=("batch", 3, "height", "width"), **metadata):
    """A file with the inputs, outputs and metadata of `ms-detr export`."""
    from onnx import TensorProto as T
    from onnx import helper

    axes = helper.make_tensor("axes", T.INT64, [2], [2, 3])
    scale = helper.make_tensor("scale", T.FLOAT, [], [255.0])
    ends = {n: helper.make_tensor(n, T.INT64, [1], [k]) for n, k in zip("abcd", range(4))}  # noqa: B905
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=T.FLOAT),
        # Padding is black, and told apart from the picture by `sizes` alone.
        helper.make_node("ReduceSum", ["pixels", "axes"], ["sums"], keepdims=0),
        helper.make_node("Cast", ["sizes"], ["sides"], to=T.FLOAT),
        helper.make_node("ReduceProd", ["sides"], ["count"], axes=[1], keepdims=1),
        helper.make_node("Div", ["sums", "count"], ["bytes"]),
        helper.make_node("Div", ["bytes", "scale"], ["means"]),
        helper.make_node("Slice", ["means", "a", "c", "b"], ["corner"]),
        helper.make_node("Sub", ["corner", "corner"], ["zeros"]),
        helper.make_node("Concat", ["zeros", "corner"], ["box"], axis=1),
        helper.make_node("Unsqueeze", ["box", "b"], ["boxes"]),
        helper.make_node("Slice", ["means", "c", "d", "b"], ["scores"]),
        helper.make_node("Sub", ["scores", "scores"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["labels"], to=T.INT64),
    ]
    batch = size[0]
    graph = helper.make_graph(
        nodes,
        "found",
        [
            helper.make_tensor_value_info("images", T.UINT8, size),
            helper.make_tensor_value_info("sizes", T.INT64, (batch, 2)),
        ],
        [
            helper.make_tensor_value_info("boxes", T.FLOAT, (batch, 1, 4)),
            helper.make_tensor_value_info("scores", T.FLOAT, (batch, 1)),
            helper.make_tensor_value_info("labels", T.INT64, (batch, 1)),
        ],
        [axes, scale, *ends.values()],
    )
    facts = {
        "class_names": ["a “thing”"],
        "preprocessing": {"resize": None, "inside": True, "least_sides": [1, 1], "multiple_of": 1},
        "postprocessing": {"inside": True, "left_out": None},
        **metadata,
    }
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("made") / "a modèle.onnx")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of one colour, 40 x 20."""
    file = tmp_path_factory.mktemp("my photos ü") / "plain.png"
    Image.new("RGB", (40, 20), (51, 102, 204)).save(file)
    return file


def same(found):
    assert [x["name"] for x in found] == ["a “thing”"]
    assert found[0]["score"] == pytest.approx(0.8, abs=1e-6)
    assert found[0]["box"] == pytest.approx([0, 0, 8, 8], abs=1e-5)
    return True


def example(*words):
    command = [sys.executable, str(EXAMPLE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answers(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no runtime's remarks on what it doesn't make faster
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == done.args[3:]
    return [line["objects"] for line in lines]


def test_pictures(model, photo):
    assert all(map(same, answers(example(model, photo, photo))))


def test_fixed_sizes(photo, tmp_path):
    """A picture is padded to them, and repeated where the file always takes as many."""
    file = write_model(tmp_path / "fixed.onnx", (3, 3, 31, 47))
    assert all(map(same, answers(example(file, photo))))
    small = write_model(tmp_path / "small.onnx", (1, 3, 31, 33))
    done = example(small, photo)
    assert done.returncode == 1
    assert done.stderr == (
        "error: an image of 40 x 20 pixels, as the model sees it, is larger than the file's "
        "33 x 31\n"
    )


def test_what_is_wrong_is_a_line(model, photo, tmp_path, monkeypatch):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    other = onnx.load(model)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    queries = write_model(
        tmp_path / "queries.onnx", postprocessing={"inside": False, "left_out": None}
    )
    for words, problem in (
        ((tmp_path / "none.onnx", photo), "none.onnx"),
        ((text, photo), "text.jpg"),
        ((tmp_path / "other.onnx", photo), "wasn't written by ms-detr export"),
        ((queries, photo), "left to others"),
        ((model, text), "text.jpg"),
        ((model, tmp_path / "none.png"), "none.png"),
    ):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, words)])
        with pytest.raises(SystemExit, match=rf"^error: .*{re.escape(problem)}"):
            runpy.run_path(str(EXAMPLE), run_name="__main__")


class Server:
    """The example as a server, in a process of its own."""

    def __init__(self, file, example=EXAMPLE):
        self.process = subprocess.Popen(
            [sys.executable, str(example), file, "--serve", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip().removeprefix("http://")

    def ask(self, body, method="POST", headers=None):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        connection.request(method, "/", body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def end(self):
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of a file that takes pictures of at most 50 x 50."""
    server = Server(write_model(tmp_path_factory.mktemp("served") / "m.onnx", (1, 3, 50, 50)))
    yield server
    server.process.kill()
    server.process.communicate()


def test_a_server_answers_as_the_command_does(server, photo):
    for _ in range(2):
        status, text = server.ask(photo.read_bytes())
        assert status == 200 and same(json.loads(text))


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        (b"", None, "send an image file"),
        (b"no image", None, "the body is no image of a kind that is known"),
        (None, {"Content-Length": "many"}, "invalid literal"),
        (None, {"Content-Length": "-1"}, "send an image file"),
        (None, {"Content-Length": "999999999999"}, "send an image file"),
    ],
)
def test_bad_input_is_an_answer(server, photo, body, headers, problem):
    status, text = server.ask(body, headers=headers)
    assert status == 400 and problem in json.loads(text)["error"]
    assert server.ask(photo.read_bytes())[0] == 200


def test_a_picture_that_is_too_large_ends_no_server(server, photo, tmp_path):
    Image.fromarray(np.zeros((20, 51, 3), np.uint8)).save(tmp_path / "large.png")
    status, text = server.ask((tmp_path / "large.png").read_bytes())
    assert status == 400 and "51 x 20 pixels" in json.loads(text)["error"]
    assert server.ask(photo.read_bytes())[0] == 200
    status, text = server.ask(None, "GET")
    assert status == 405 and "curl --data-binary" in json.loads(text)["error"]


def test_a_client_that_stops_half_way_is_not_waited_for(model, photo, tmp_path):
    text = EXAMPLE.read_text()
    assert "PATIENCE = 10" in text
    (tmp_path / "hasty.py").write_text(text.replace("PATIENCE = 10", "PATIENCE = 0.5"))
    server = Server(model, tmp_path / "hasty.py")
    content = photo.read_bytes()
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content[:-9])
    assert server.ask(content)[0] == 200
    answer = connection.getresponse()
    assert answer.status == 400 and "timed out" in answer.read().decode()
    connection.close()
    assert server.end()[0] == 130


def test_ctrl_c_ends_a_server(model, photo):
    server = Server(model)
    assert server.ask(photo.read_bytes())[0] == 200
    status, said = server.end()
    assert status == 130 and "Traceback" not in said and "Error" not in said


def test_a_port_that_is_taken(server, model):
    done = example(model, "--serve", server.address.rpartition(":")[2])
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
