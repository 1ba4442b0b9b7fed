"""How much work a stage has: float operations by counting csrc/math, and the least bytes, each of its tensors once.

A multiply-add is two operations; comparisons, selections and integers are none. A division or a root is one. Constants
below are for three colour channels.

Blend, from csrc/math/blend.h and the way both backends schedule it:
  an evaluated pair  constant + dy (linear - c dy): 3, the least, where pixels share what they can (the CPU, whose
                     blocks of pixels share less, makes 10 of it)
  a drawn pair       2^x: 12 by the polynomial of csrc/cpu/lanes.h (to split, 5 multiply-adds, to scale), 1 on a card;
                     the clamp at 0.999: 1; forward: weight 1, transmittance 1, three colours 6
                     backward: q = c . dL/drender 6; unblend: 1 - alpha, quotient, weight, difference, behind (2), g: 7;
                     sums of three colour gradients 6; g dx, g dy: 2; six moments: 1 + 1 + 1 + 2 + 2 + 2 = 9
  an instance        backward adds its row of 9 to those of its Gaussian
Project, from camera.h, covariance.h and sh.h, for a Gaussian and a camera: rotation 49, factor 9, to camera 18, to
  pixel 37, covariance to conic 72, extent 10; harmonics: direction 13, basis (0, 3, 19, 57, 117 by degree), colours 6
  a basis.
  Backward repeats forward and has two products for each of its products: three times forward.
Photometric, from ssim.h, for a value (a channel of a pixel): a window of 11 taps is 16 (5 sums, 1 product, 5
  multiply-adds), and there are 5 + 5 of the means and 3 + 3 of their gradients; products 3, SSIM with gradient 34, L1
  and the chain 9.
Adam, from adam.h, for a scalar: 3 + 4 + 6.
Bin works in integers and keys; its bytes alone are counted, and of its sorts only the lists that come out.
"""

from typing import NamedTuple

from splatlearn.bench.pairs import Counts
from splatlearn.bench.peaks import Peaks
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians

EVALUATED = 3
DRAWN_FORWARD = 1 + 2 + 6
DRAWN_BACKWARD = 1 + 6 + 7 + 6 + 2 + 9
EXPONENTIAL = {"cpu": 12, "cuda": 1}
ROW = 9
PROJECT, DIRECTION, BASIS, COLOR = 49 + 9 + 18 + 37 + 72 + 10, 13, (0, 3, 19, 57, 117), 6
PHOTOMETRIC = 16 * (5 + 5 + 3 + 3) + 3 + 34 + 9
ADAM = 3 + 4 + 6

FLAT = 12  # scalars of a 2D Gaussian: mean 2, depth, conic 3, opacity, colour 3, radii 2
SPLAT = 9  # of them, what the blend reads of one: mean, conic, opacity, colour


class Work(NamedTuple):
    """Of one stage in one step."""

    flops: float
    bytes: float

    def least_ms(self, peaks: Peaks) -> float:
        """Milliseconds below which the stage cannot be: the larger of its two rooflines."""
        return max(self.flops / peaks.gflops, self.bytes / peaks.gigabytes) / 1e6


def of_stages(gaussians: Gaussians, camera: Camera, counts: Counts, device: str) -> dict[str, Work]:
    """The work of each native stage of a training step, in float32, by the stage's name."""
    n, degree = len(gaussians), gaussians.sh_degree
    bases = (degree + 1) ** 2
    parameters = n * (11 + 3 * bases)
    pixels = camera.width * camera.height
    tiles = -(-camera.width // 16) * -(-camera.height // 16)
    project = n * (PROJECT + DIRECTION + BASIS[degree] + COLOR * bases)
    exponential = EXPONENTIAL[device]
    instances, drawn = counts.instances, counts.contributed
    # An instance's row of the lists is a Gaussian's number (4 bytes) and the slot of its gradients (8).
    adam = Work(ADAM * parameters, 4 * 7 * parameters)
    return {
        "project forward": Work(project, 4 * (parameters + FLAT * n)),
        "bin count": Work(0, 4 * 9 * n + 8 * n),
        "bin write": Work(0, 4 * 9 * n + 12 * instances + 8 * tiles),
        "rasterize forward": Work(
            EVALUATED * counts.evaluated_forward + (DRAWN_FORWARD + exponential) * drawn,
            instances * (4 + 4 * SPLAT) + pixels * 4 * 6,
        ),
        "photometric": Work(PHOTOMETRIC * 3 * pixels, 3 * pixels * (4 + 4 + 1)),
        "rasterize backward": Work(
            EVALUATED * counts.evaluated_backward + (DRAWN_BACKWARD + exponential) * drawn + ROW * instances,
            instances * (12 + 4 * SPLAT + 2 * 4 * ROW) + pixels * 4 * 6 + n * (4 * SPLAT + 8),
        ),
        "project backward": Work(3 * project, 4 * (2 * parameters + FLAT * n)),
        # In one pass each parameter and each moment is read once and written once, and no gradient is.
        "project update": Work(3 * project + ADAM * parameters, 4 * (6 * parameters + FLAT * n)),
        "adam": adam,
        "adam groups": adam,
    }
