"""Find objects with an exported ONNX file; of packages only numpy, onnxruntime and Pillow.

    python onnx_predict.py model.onnx image.jpg [image.jpg ...]
    python onnx_predict.py model.onnx --serve 8000
    curl --data-binary @image.jpg localhost:8000

It prints a line of JSON an image, with its ``file`` and ``objects``, or answers with the objects of
an image: best first, with ``name``, ``score``, ``box`` (x1, y1, x2, y2 in pixels of the upright
image) and, of files with masks, ``area`` in pixels.
The file has to be one of `ms-detr export` with preprocessing and postprocessing inside.
"""

import argparse
import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST = 100_000_000  # bytes of an image that the server takes
PATIENCE = 10  # seconds for which it waits for more of one


class Detector:
    """A model out of an ONNX file.

    Args:
        file: its path.
        threshold: least score of an object.
    """

    def __init__(self, file, threshold=0.3):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of what it doesn't make faster
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        facts = self.session.get_modelmeta().custom_metadata_map
        if "preprocessing" not in facts:
            raise ValueError(f"{file} wasn't written by ms-detr export")
        self.names = json.loads(facts["class_names"])
        self.preprocessing = json.loads(facts["preprocessing"])
        self.left_out = json.loads(facts["postprocessing"])["left_out"]
        if not (self.preprocessing["inside"] and json.loads(facts["postprocessing"])["inside"]):
            raise ValueError(f"{file}: its images or objects are left to others")
        self.threshold = threshold

    def __call__(self, image):
        """Return the objects of a PIL image, dicts; with masks as bool arrays of its size."""
        image = ImageOps.exif_transpose(image).convert("RGB")
        pixels, scale = self.prepare(image)
        size = np.array([pixels.shape[1:]], dtype=np.int64)
        padded = self.pad(pixels)
        batch = self.session.get_inputs()[0].shape[0]
        count = batch if isinstance(batch, int) else 1  # the same image as often as it takes
        inputs = {"images": padded[None].repeat(count, 0), "sizes": size.repeat(count, 0)}
        names = [output.name for output in self.session.get_outputs()]
        found = self.session.run(None, inputs)
        found = {name: array[0] for name, array in zip(names, found, strict=True)}
        objects = []
        for index in np.flatnonzero(found["scores"] >= self.threshold):
            # From fractions of what the model saw to its pixels, and to those of the image.
            box = found["boxes"][index] * np.tile(size[0, ::-1], 2) * np.tile(scale, 2)
            box = np.minimum(box, np.tile(image.size, 2))
            label = int(found["labels"][index])
            one = {
                "name": self.names[label] if self.names else str(label),
                "score": float(found["scores"][index]),
                "box": [float(x) for x in box],
            }
            if "masks" in found:
                one["mask"] = self.mask(found["masks"][index], padded.shape[1:], scale, image.size)
            objects.append(one)
        return objects

    def prepare(self, image):
        """Return uint8 (3, h, w), as in training, and how many pixels of the image one is."""
        width, height = image.size
        padding = None
        for step in self.preprocessing["resize"] or []:
            if step["kind"] == "resize_shortest_edge":
                image = image.resize(
                    new_size(image.size, step["edge"], step["max"]), Image.BILINEAR
                )
            elif step["kind"] == "pad_to_square":
                padding = step
            else:
                raise ValueError(f"this example doesn't know how to do {step['what']}")
        pixels = np.asarray(image).transpose(2, 0, 1)
        scale = np.array([width / image.width, height / image.height])
        if padding is not None:  # which is image to the model
            square = np.full((3, padding["size"], padding["size"]), padding["value"], np.uint8)
            square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
            pixels = square
        return np.ascontiguousarray(pixels), scale

    def pad(self, pixels):
        """Pad (3, h, w) to what the file takes."""
        fixed = self.session.get_inputs()[0].shape[2:]
        least = self.preprocessing["least_sides"]
        sides = [
            side if isinstance(side, int) else max(at_least, now)
            for side, at_least, now in zip(fixed, least, pixels.shape[1:], strict=True)
        ]
        if sides[0] < pixels.shape[1] or sides[1] < pixels.shape[2]:
            height, width = pixels.shape[1:]
            raise ValueError(
                f"an image of {width} x {height} pixels, as the model sees it, is larger than "
                f"the file's {sides[1]} x {sides[0]}"
            )
        padded = np.zeros((3, *sides), np.uint8)
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded

    def mask(self, logits, padded, scale, size):
        """Return a mask (H, W) of the image from logits (h, w) over the padded image."""
        multiple = self.preprocessing["multiple_of"]
        whole = [-(-side // multiple) * multiple for side in padded]
        logits = stretch(logits, whole)
        height, width = (round(side / by) for side, by in zip(size[::-1], scale[::-1], strict=True))
        return stretch(logits[:height, :width], size[::-1]) > 0


def new_size(size, edge, longest):
    """Return width and height after the shorter side has become `edge`, none above `longest`."""
    scale = edge / min(size)
    sides = [edge if side == min(size) else scale * side for side in size]
    if max(sides) > longest:
        sides = [side * (longest / max(sides)) for side in sides]
    return [max(1, int(side + 0.5)) for side in sides]


def stretch(values, size):
    """Return an array (h, w) at another size, bilinear between the middles of its cells."""
    for axis, count in enumerate(size):
        known = values.shape[axis]
        place = ((np.arange(count, dtype=np.float32) + 0.5) * (known / count) - 0.5).clip(0)
        first = np.minimum(place.astype(np.int64), known - 1)
        share = (place - first).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        second = np.minimum(first + 1, known - 1)
        values = values.take(first, axis) * (1 - share) + values.take(second, axis) * share
    return values


def for_json(objects):
    """Return objects as JSON can hold them; of masks how large they are."""
    plain = [
        {key: x for key, x in one.items() if key != "mask"}
        | ({"area": int(one["mask"].sum())} if "mask" in one else {})
        for one in objects
    ]
    return plain


def serve(detector, port):
    """Answer POST requests, whose bodies are image files, on this machine alone."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE  # the next client waits for this one

        def do_POST(self):
            try:
                length = int(self.headers.get("Content-Length", 0))
                if not 0 < length <= LARGEST:
                    raise ValueError(f"send an image file of at most {LARGEST} bytes")
                body = io.BytesIO(self.rfile.read(length))
                self.answer(200, for_json(detector(Image.open(body))))
            except UnidentifiedImageError:  # whose text names an object of Python's
                self.answer(400, {"error": "the body is no image of a kind that is known"})
            except Exception as error:  # an answer for one client, and the next one is served
                self.answer(400, {"error": f"{type(error).__name__}: {error}"})

        def do_GET(self):
            error = "POST an image file, as curl --data-binary @image.jpg does"
            self.answer(405, {"error": error}, allow="POST")

        def answer(self, status, content, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images", nargs="*")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--serve", type=int, metavar="PORT")
    arguments = parser.parse_args()
    try:
        model = Detector(arguments.model, arguments.threshold)
        for path in arguments.images:
            print(json.dumps({"file": path, "objects": for_json(model(Image.open(path)))}))
        if arguments.serve is not None:
            serve(model, arguments.serve)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # in a line: most are of files that can't be read
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
