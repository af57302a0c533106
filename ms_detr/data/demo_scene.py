"""One image of the demo dataset: what can be on it, and how it is drawn.

Every image is a function of (spec, seed, split, index) alone: images can be drawn in any order,
any number of them, in any number of processes, and come out the same.
"""

from dataclasses import dataclass, field

import numpy as np

from .demo_shapes import SHAPES, TEXTURES, background, outline, paint, rasterize

SPLITS = ("train", "val")  # the place in this tuple is part of an image's seed


@dataclass(frozen=True)
class DemoSpec:
    """The definition of the demo dataset. Frozen: figures on it compare only while it stays.

    Ranges are (low, high), both included for counts; lengths are pixels. ``extent`` is the length
    of a shape's longer side before its rotation, drawn log-uniformly.
    """

    image_size: int = 128
    classes: tuple[str, ...] = SHAPES
    objects: tuple[int, int] = (1, 8)
    extent: tuple[float, float] = (20.0, 84.0)
    aspect: tuple[float, float] = (0.6, 1.0)  # shorter side / longer side
    min_visible: float = 0.5  # share of its pixels that every object keeps visible
    empty_share: float = 0.05  # share of images without objects
    crowded_share: float = 0.10  # share of images with many small objects
    crowded_objects: tuple[int, int] = (8, 12)
    crowded_extent: tuple[float, float] = (16.0, 36.0)
    crowd_region_share: float = 0.02  # share of images with a region annotated as iscrowd
    crowd_region_extent: tuple[float, float] = (44.0, 64.0)
    crowd_items: tuple[int, int] = (14, 24)
    crowd_item_extent: tuple[float, float] = (7.0, 10.0)
    contrast: float = 70.0  # least RGB distance between an object and what it lies on
    low_contrast_share: float = 0.10  # share of objects that differ less:
    low_contrast: tuple[float, float] = (30.0, 60.0)
    cell: tuple[float, float] = (2.0, 5.0)  # width of stripes and checker squares
    grid: tuple[int, int] = (2, 5)  # colours per side of the background field
    bars: tuple[int, int] = (0, 10)
    noise: tuple[float, float] = (2.0, 8.0)  # standard deviation of the sensor noise


@dataclass(frozen=True)
class DemoObject:
    """One annotated object: class index, polygons, amodal mask (size, size), crowd flag."""

    category: int
    polygons: list[np.ndarray]
    mask: np.ndarray
    crowd: bool = False


@dataclass
class _Scene:
    """A picture in the making: what was drawn, and which object each pixel shows."""

    spec: DemoSpec
    rng: np.random.Generator
    canvas: np.ndarray
    objects: list[DemoObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = self.spec.image_size
        self.owner = np.full((size, size), -1)
        self.visible: list[int] = []  # pixels of each object that can be seen

    def hidden_by(self, mask: np.ndarray) -> np.ndarray:
        """How many visible pixels each object would lose under this mask."""
        return np.bincount(self.owner[mask] + 1, minlength=len(self.objects) + 1)[1:]

    def fits(self, mask: np.ndarray) -> bool:
        """Whether the mask is in the image and leaves every object its visible share."""
        left = np.array(self.visible) - self.hidden_by(mask)
        needed = [self.spec.min_visible * item.mask.sum() for item in self.objects]
        return bool(mask.any() and (left >= needed).all())

    def add(self, item: DemoObject) -> None:
        """Put the object on top of the others. Its pixels are painted separately."""
        self.visible = [*(np.array(self.visible) - self.hidden_by(item.mask)), item.mask.sum()]
        self.owner[item.mask] = len(self.objects)
        self.objects.append(item)

    def paint(self, mask: np.ndarray) -> None:
        """Fill the mask with a random texture that stands out from what lies there now."""
        spec, rng = self.spec, self.rng
        ground = self.canvas[mask].mean(axis=0)
        candidates = rng.uniform(0, 255, (16, 3))
        distance = np.linalg.norm(candidates - ground, axis=1)
        first = candidates[np.argmax(distance >= spec.contrast)]
        second = rng.uniform(0, 255, 3)
        if rng.random() < spec.low_contrast_share:
            # Away from the nearer end of the range, so that nothing is lost by clipping.
            direction = rng.uniform(0.3, 1, 3) * np.where(ground > 127.5, -1, 1)
            direction /= np.linalg.norm(direction)
            first = ground + rng.uniform(*spec.low_contrast) * direction
            second = first + 0.3 * (second - first)
        texture = TEXTURES[rng.integers(len(TEXTURES))]
        angle = rng.uniform(0, np.pi)
        paint(self.canvas, mask, texture, (first, second), rng.uniform(*spec.cell), angle, rng)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _integer(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def _random_shape(scene: _Scene, shape: str, bounds: tuple[float, float]) -> list[np.ndarray]:
    """A shape of random size, aspect and rotation whose centre lies well inside the image."""
    spec, rng = scene.spec, scene.rng
    longer = _log_uniform(rng, *bounds)
    shorter = longer * rng.uniform(*spec.aspect)
    margin = 0.3 * longer
    x, y = rng.uniform(margin, spec.image_size - margin, 2)
    return outline(shape, (x, y), longer, shorter, rng.uniform(0, 2 * np.pi), spec.image_size)


def _add_object(scene: _Scene, bounds: tuple[float, float], attempts: int = 30) -> None:
    """Add one object where it hides no other too much; give up after some attempts."""
    category = int(scene.rng.integers(len(scene.spec.classes)))
    for _ in range(attempts):
        polygons = _random_shape(scene, scene.spec.classes[category], bounds)
        mask = rasterize(polygons, scene.spec.image_size)
        if scene.fits(mask):
            scene.paint(mask)
            scene.add(DemoObject(category, polygons, mask))
            return


def _add_crowd_region(scene: _Scene) -> None:
    """Fill an elliptic region with small shapes of one class, annotated together as a crowd."""
    spec, rng = scene.spec, scene.rng
    category = int(rng.integers(len(spec.classes)))
    region = _random_shape(scene, "ellipse", spec.crowd_region_extent)
    mask = rasterize(region, spec.image_size)
    rows, columns = np.nonzero(mask)
    for _ in range(_integer(rng, spec.crowd_items)):
        chosen = rng.integers(len(rows))
        longer = _log_uniform(rng, *spec.crowd_item_extent)
        shorter, angle = longer * rng.uniform(*spec.aspect), rng.uniform(0, 2 * np.pi)
        center = (columns[chosen] + 0.5, rows[chosen] + 0.5)
        item = outline(spec.classes[category], center, longer, shorter, angle, spec.image_size)
        inside = rasterize(item, spec.image_size) & mask
        if inside.any():
            scene.paint(inside)
    scene.add(DemoObject(category, region, mask, crowd=True))


def draw_image(
    spec: DemoSpec, seed: int, split: str, index: int
) -> tuple[np.ndarray, list[DemoObject]]:
    """Draw image ``index`` of a split.

    Returns:
        The RGB image, uint8 (size, size, 3), and its objects from back to front.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    size = spec.image_size
    canvas = background(size, _integer(rng, spec.grid), _integer(rng, spec.bars), rng)
    scene = _Scene(spec, rng, canvas)
    kind, has_region = rng.random(), rng.random() < spec.crowd_region_share
    if has_region:
        _add_crowd_region(scene)
    if kind < spec.crowded_share:
        count, bounds = _integer(rng, spec.crowded_objects), spec.crowded_extent
    elif kind < spec.crowded_share + spec.empty_share:
        count, bounds = 0, spec.extent
    else:
        count, bounds = _integer(rng, spec.objects), spec.extent
    for _ in range(count):
        _add_object(scene, bounds)
    scene.canvas += rng.uniform(*spec.noise) * rng.standard_normal((size, size, 1), np.float32)
    image = np.clip(np.rint(scene.canvas), 0, 255).astype(np.uint8)
    return image, scene.objects
