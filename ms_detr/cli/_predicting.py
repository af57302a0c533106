"""What `ms-detr predict` does with images and videos: predict, draw, list."""

import errno
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ms_detr.data.sources import STDIN, SourceFile, read_stdin
from ms_detr.data.video import open_video, write_video
from ms_detr.engine import Predictor
from ms_detr.engine.prediction import Source, read_image
from ms_detr.errors import DataError, MissingFileError, UserError, counted, short_message
from ms_detr.evaluation.listing import Listed
from ms_detr.files import atomic_path, reason
from ms_detr.visualization import draw_objects

from ._progress import Counter

LOST = 0.1  # of a video's frames; what files tell of their number may be a little off
# A file stands where a folder should, or a folder where a file should; or the name is too long.
NO_PLACE = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


class Predicting:
    """Predicts, draws, and keeps what is found.

    Args:
        pictures: the folder for them; None: there are none.
        counter: of images and frames.

    Attributes:
        done: images and frames that were predicted.
        skipped: files that could not be read, or not to their end.
        listed: what was found so far.
    """

    def __init__(self, predictor: Predictor, pictures: Path | None, counter: Counter):
        self.done = 0
        self.skipped = 0
        self.listed: list[Listed] = []
        self._predictor = predictor
        self._pictures = pictures
        self._counter = counter
        self._next = 1  # number of an image, read or not

    def all(self, sources: Sequence[SourceFile]) -> None:
        """Predict images, those of one size together, and then videos one by one."""
        self._images([source for source in sources if not source.is_video])
        for source in sources:
            if source.is_video:
                try:
                    self._video(source)
                except UserError as error:
                    self.skip(str(error))
                except OSError as error:
                    self._skip_picture(source, error)

    def skip(self, problem: str) -> None:
        """Say that something can't be read."""
        self.skipped += 1
        self._counter.say(f"skipped: {problem}")

    def summary(self) -> str:
        """How much was found."""
        names = self._predictor.class_names
        tally = Tally(int(label) for one in self.listed for label in one.objects.classes)
        kinds = [
            f"{number} {names[label] if names else f'of class {label}'}"
            for label, number in tally.most_common()
        ]
        of_kinds = f" ({', '.join(kinds)})" if kinds else ""
        return f"{counted(self.done, 'image')}: {counted(tally.total(), 'object')}{of_kinds}"

    def _images(self, sources: Sequence[SourceFile]) -> None:
        numbered = dict(enumerate(sources, self._next))
        self._next += len(sources)
        images: dict[int, Source] = {}
        for number, source in numbered.items():
            try:
                images[number] = read_stdin() if source.path == STDIN else source.path
            except UserError as error:
                self._fail(number, error)
        named = ((number, numbered[number].path, image) for number, image in images.items())
        for number, found in self._predictor.each(named, self._fail):
            source = numbered[number]
            if self._pictures is not None:
                self._draw(source, images[number], found, self._pictures)
            self._keep(number, source.path, None, found)

    def _video(self, source: SourceFile) -> None:
        kept: dict[int, np.ndarray] = {}  # frames, until they are drawn
        frames = 0
        with ExitStack() as stack:
            video = stack.enter_context(open_video(source.path))
            add = None
            if self._pictures is not None:
                file = self._pictures / source.picture
                add = stack.enter_context(write_video(file, video.rate))

            def named() -> Iterator[tuple[int, str, np.ndarray]]:
                for frame, image in enumerate(video.frames):
                    kept[frame] = image
                    yield frame, f"{source.path}, frame {frame}", image

            for frame, found in self._predictor.each(named(), self._fail):
                image = kept.pop(frame)
                if add is not None:
                    add(self._drawn(image, found))
                self._keep(self._next, source.path, frame, found)
                self._next += 1
                frames += 1
        if frames < (1 - LOST) * video.count:
            self.skip(f"{source.path} ends after {frames} of {video.count} frames")

    def _fail(self, _: int, error: Exception) -> None:
        self.skip(str(short_message(error)))
        self._counter.advance()

    def _draw(self, source: SourceFile, image: Source, found: Any, folder: Path) -> None:
        try:
            # Read once more: the images of a whole batch may be too large to be kept.
            pixels = read_image(image, source.path)
        except (DataError, MissingFileError) as error:
            self.skip(f"{source.path} was predicted, and can't be drawn: {error}")
            return
        picture = self._drawn(pixels, found)
        try:
            with atomic_path(folder / source.picture) as path:
                Image.fromarray(picture).save(path, "PNG")
        except OSError as error:
            self._skip_picture(source, error)

    def _skip_picture(self, source: SourceFile, error: OSError) -> None:
        """Say that a picture has no place; raise what other pictures would fail by, too."""
        if error.errno not in NO_PLACE:
            raise error
        where = f"{error.filename} ({reason(error)})"
        self.skip(f"the picture of {source.path}, which can't be written to {where}")

    def _drawn(self, image: np.ndarray, found: Any) -> np.ndarray:
        return draw_objects(image, found, self._predictor.class_names)

    def _keep(self, number: int, file: str, frame: int | None, found: Any) -> None:
        self.listed.append(Listed.of(number, file, frame, found))
        self.done += 1
        self._counter.advance()
