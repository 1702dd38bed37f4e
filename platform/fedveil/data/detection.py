"""Faces and their five landmarks, found by OpenCV's YuNet; needs `pip install 'fedveil[align]'` and the model's file.

W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023. The
model is `face_detection_yunet_*.onnx` of https://github.com/opencv/opencv_zoo (230 kB, MIT licence). It is read from
where you put it; nothing is downloaded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedveil import checks
from fedveil.data import aligning, files
from fedveil.data.stores import Problem

_SIDE = 1024  # pixels of the longer side that a picture is searched at: faces of a tenth of it are found
_SCORE, _OVERLAP, _MOST = 0.7, 0.3, 1000  # a face from this score on; boxes that overlap more are one face; at most


class Yunet:
    """A detector of faces; of several in a picture the largest is taken.

    Raises:
        fedveil.checks.UserError: OpenCV is not installed, or `model` is no model that it reads.
    """

    def __init__(self, model: Path) -> None:
        if files.kind(model) != files.FILE:
            raise checks.UserError(f"--detector {model} is {files.kind(model)}; expected face_detection_yunet_*.onnx.")
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            raise checks.UserError(
                "--detector needs OpenCV: pip install 'fedveil[align]', or give --landmarks of any other detector."
            ) from error
        try:
            self._net = self._cv2.FaceDetectorYN.create(str(model), "", (320, 320), _SCORE, _OVERLAP, _MOST)
        except self._cv2.error as error:
            raise checks.UserError(
                f"--detector {model} is no model of YuNet: {str(error).strip().splitlines()[-1]}"
            ) from error

    def names(self, photographs: Path) -> list[str]:
        """Return every picture of the folders below."""
        return aligning.pictures_of(photographs)

    def problems(self, photographs: Path) -> list[Problem]:
        """Return nothing: every picture is searched."""
        return []

    def points(self, name: str, picture: Image.Image) -> NDArray[np.float64]:
        """Return the landmarks (5, 2) of the largest face, in pixels of `picture`."""
        by = min(1.0, _SIDE / max(picture.size))
        small = picture if by == 1 else picture.resize([max(1, round(by * side)) for side in picture.size])
        self._net.setInputSize(small.size)
        found = self._net.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))[1]  # OpenCV has blue first
        if found is None or not len(found):
            raise aligning.NoFace("no face was found")
        best = found[np.argmax(found[:, 2] * found[:, 3])]
        points: NDArray[np.float64] = best[4:14].reshape(5, 2).astype(np.float64)
        scale = np.array(picture.size) / small.size
        return (points + 0.5) * scale - 0.5
