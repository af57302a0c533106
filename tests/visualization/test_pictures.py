"""Boxes, labels, titles: colours, places, and letters that fonts have."""

import colorsys
import itertools
import logging
import warnings

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ms_detr.visualization import fonts
from ms_detr.visualization.canvas import TITLE_HEIGHT, Canvas, class_color, text_color, titled
from ms_detr.visualization.predictions import draw_objects, pair

SIZE = 400
NAMES = Metadata(thing_classes=[f"kind {k}" for k in range(90)])
CHINESE = "\u7ec6\u80de\u6838"


def blank(names=NAMES):
    return Canvas(np.full((SIZE, SIZE, 3), 40, np.uint8), names, 1.0)


def annotated(*objects):
    """A record of (box, class)."""
    items = [{"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c} for b, c in objects]
    return {"annotations": items}


def detected(*objects):
    """Detections of (box, class)."""
    boxes, classes = zip(*objects, strict=True)
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
        pred_classes=torch.tensor(classes),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
    )


def has_color(picture, row, column, color):
    """Around a pixel, for an edge is some pixels wide and a little transparent."""
    part = picture[row - 3 : row + 4, column].astype(float) / 255
    return np.abs(part - color).max(1).min() < 0.12


def test_a_class_has_one_color_in_every_picture():
    objects = [([50.0, 50, 150, 150], 3), ([200.0, 200, 300, 300], 12), ([20.0, 250, 120, 380], 3)]
    for order in itertools.permutations(objects):
        truth = blank().draw_dataset_dict(annotated(*order)).get_image()
        guess = blank().draw_instance_predictions(detected(*order)).get_image()
        for (x0, _, x1, y1), label in objects:
            for picture in (truth, guess):
                assert has_color(picture, int(y1), int(x0 + x1) // 2, class_color(label))


def test_classes_have_other_colors():
    """The first ones, which most datasets have, are far apart."""
    colors = np.array([class_color(label) for label in range(80)])
    distance = np.abs(colors[:, None] - colors).max(-1) + np.eye(80)
    assert distance.min() > 0.02 and distance[:11, :11].min() > 0.2


def test_the_first_classes_are_not_red():
    """In which mistakes are drawn."""
    hues = [colorsys.rgb_to_hsv(*class_color(label))[0] * 360 for label in range(8)]
    assert min(min(hue, 360 - hue) for hue in hues) > 10


@pytest.mark.parametrize(
    ("names", "annotations", "detections"),
    [
        (["cell"], ["(crowd)"], ["90%", "50%"]),
        (["cell", "nucleus"], ["cell", "cell (crowd)"], ["cell 90%", "cell 50%"]),
        (None, ["0", "0 (crowd)"], ["0 90%", "0 50%"]),
    ],
)
def test_the_only_class_is_not_named_again_and_again(names, annotations, detections):
    known = Metadata() if names is None else Metadata(thing_classes=names)
    objects = [([50.0, 50, 150, 150], 0), ([200.0, 200, 300, 300], 0)]
    record = annotated(*objects)
    record["annotations"][1]["iscrowd"] = 1
    truth, guess = blank(known), blank(known)
    truth.draw_dataset_dict(record)
    guess.draw_instance_predictions(detected(*objects))
    assert [text.get_text() for text in truth.output.ax.texts] == annotations
    assert [text.get_text() for text in guess.output.ax.texts] == detections


def test_labels_can_be_read_on_all_colors():
    """Contrast by WCAG 2, whose level AA is 4.5."""

    def luminance(color):
        parts = np.array(to_rgb(color))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    for label in range(200):
        background = class_color(label)
        light, dark = sorted((luminance(background), luminance(text_color(background))))[::-1]
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_labels_cover_no_other_and_stay_in_the_image():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-20, SIZE - 40, (40, 2))
    boxes = np.hstack((corners, corners + rng.uniform(5, 150, (40, 2))))
    panel = blank()
    panel.draw_dataset_dict(annotated(*((list(box), k) for k, box in enumerate(boxes))))
    renderer = panel.output.canvas.get_renderer()
    panel.output.fig.draw(renderer)
    places = [text.get_bbox_patch().get_window_extent(renderer) for text in panel.output.ax.texts]
    assert len(places) > 20
    for place in places:
        assert place.x0 > -2 and place.y0 > -2 and place.x1 < SIZE + 2 and place.y1 < SIZE + 2
        assert place.height >= 11
    for one, other in itertools.combinations(places, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(width, height) < 1.5


def test_panels_have_titles(tmp_path):
    image = np.full((60, 200, 3), 100, np.uint8)
    picture = titled(image, "annotations")
    assert picture.shape == (60 + TITLE_HEIGHT, 200, 3) and (picture[TITLE_HEIGHT:] == 100).all()
    title = picture[:TITLE_HEIGHT]
    assert (title == 255).mean() > 0.8 and title.min() < 60
    assert (titled(image, "other")[:TITLE_HEIGHT] != title).any()


def font_file(folder, characters, family):
    """A font of squares."""
    pen = TTGlyphPen(None)
    for step, point in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    names = {ord(character): f"glyph{k}" for k, character in enumerate(characters)}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(folder / f"{family}.ttf")
    return str(folder / f"{family}.ttf")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install fonts of some characters, and no other beside matplotlib's."""
    files = []
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(files))
    for cached in (fonts._best_font, fonts._say_missing):
        cached.cache_clear()
    yield lambda characters, family: files.append(font_file(tmp_path, characters, family))
    fonts._best_font.cache_clear()


def test_names_in_chinese_take_a_font_that_has_them(installed, caplog):
    """One that was installed after matplotlib listed them; several, where one is not enough."""
    installed(CHINESE[:2], "Try Two")
    installed(CHINESE[2:], "Try One")
    assert fonts.families(f"cell {CHINESE}") == [fonts.DEFAULT, "Try Two", "Try One"]
    panel = blank(Metadata(thing_classes=[CHINESE]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of glyphs that are missing
        panel.draw_dataset_dict(annotated(([50.0, 50, 150, 150], 0))).get_image()
        titled(np.zeros((40, 200, 3), np.uint8), CHINESE)
        figure = Figure()
        figure.subplots().plot([0, 1], label=CHINESE)
        figure.axes[0].legend()
        fonts.fit_fonts(figure)
        figure.canvas.draw()
    assert not caplog.records


def test_a_font_that_is_missing_is_named_once(installed, caplog):
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings():
        for _ in range(2):
            assert fonts.families(f"cell {CHINESE}") == [fonts.DEFAULT]
    (record,) = caplog.records
    assert "fonts-noto-cjk" in record.getMessage() and CHINESE[0] in record.getMessage()
    with warnings.catch_warnings():
        fonts.families("\u10a0\u10a1\U00010330")  # Georgian is there, Gothic is not
    assert "fonts-noto-core" in caplog.messages[-1]


def test_a_pair_of_panels(tmp_path):
    """Annotations left, predictions right, both under a title."""
    from PIL import Image

    Image.fromarray(np.full((SIZE, SIZE, 3), 40, np.uint8)).save(tmp_path / "dark.png")
    record = annotated(([50.0, 50, 150, 150], 3)) | {"file_name": str(tmp_path / "dark.png")}
    picture = np.asarray(pair(record, detected(([50.0, 50, 150, 150], 3)), 0.3, NAMES))
    left, right = picture[:, :SIZE], picture[:, -SIZE:]
    assert (left[:TITLE_HEIGHT] != right[:TITLE_HEIGHT]).any()
    for panel in (left, right):
        assert has_color(panel, 150 + TITLE_HEIGHT, 100, class_color(3))


@pytest.mark.parametrize(("height", "width"), [(200, 9000), (9001, 203), (1, 20_000)])
def test_large_images_are_shrunk_with_what_is_on_them(height, width):
    """A mask and its box keep their place, to a pixel of the picture."""
    x0, x1, y0, y1 = width // 4, width // 2, height // 4, max(height // 2, 1)
    found = Instances((height, width))
    found.pred_boxes = Boxes(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32))
    found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([0])
    found.pred_masks = torch.zeros(1, height, width, dtype=torch.bool)
    found.pred_masks[0, y0:y1, x0:x1] = True
    picture = draw_objects(np.zeros((height, width, 3), np.uint8), found, [""])
    long, short = max(picture.shape[:2]), min(picture.shape[:2])
    assert 2048 <= long <= 4096
    assert short == pytest.approx(long * min(height, width) / max(height, width), abs=1.5)
    scale = long / max(height, width)
    row, column = (int(3 / 8 * length) for length in picture.shape[:2])  # apart from the label
    (columns,) = np.nonzero(picture[row].sum(1) > 60)
    assert (columns.min(), columns.max()) == pytest.approx((x0 * scale, x1 * scale), abs=4)
    if height > 1:
        (rows,) = np.nonzero(picture[:, column].sum(1) > 60)
        assert rows.max() == pytest.approx(y1 * scale, abs=4)
