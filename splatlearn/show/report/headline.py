"""What came of a run, in sentences: the figures as a colleague would read them aloud."""

import math
from statistics import fmean, variance
from typing import NamedTuple

from splatlearn.show.report.format import duration
from splatlearn.show.report.run_folder import RunFolder, is_number

# PSNR in dB from which a sentence holds, chosen by the size of errors that is visible in photos
VERDICTS = (
    (32.0, "hard to tell from the photographs"),
    (27.0, "close to the photographs; fine texture is softer"),
    (22.0, "clearly the scene, with detail lost"),
    (-math.inf, "far from the photographs"),
)
FAR_BELOW = 4.0  # dB below the mean at which a view deserves a look
STILL_FALLING = 0.02  # share by which the loss of the last fifth lies below that of the fifth before, and ...
SURE = 3.0  # ... in standard errors of that difference: the loss of single photos varies much


class Headline(NamedTuple):
    """A sentence or two with one emphasised part, which may be empty."""

    before: str
    emphasis: str = ""
    after: str = ""


def headline(run: RunFolder) -> Headline:
    """What came of the run."""
    weight, bias = run.metrics.get("weight"), run.metrics.get("bias")
    if is_number(weight) and is_number(bias):
        sign = "+" if bias >= 0 else "−"
        return Headline("The line that was learned: ", f"y = {weight:.4g} x {sign} {abs(bias):.4g}")
    if is_number(run.metrics.get("psnr")):
        return Headline(_scene(run))
    if run.task == "text" and is_number(run.metrics.get("loss")):
        return _text(run)
    if run.curves:
        last = max(points[-1][0] for points in run.curves.values())
        return Headline(f"{int(last):,} steps so far. There is no evaluation yet.")
    return Headline("There is nothing to show yet: this run has no metrics.")


def remarks(run: RunFolder) -> list[str]:
    """What else is worth knowing, and what to try, each a sentence."""
    found = [_range(run), _outlier(run), _cap(run), _unfinished(run)]
    return [sentence for sentence in found if sentence]


def _scene(run: RunFolder) -> str:
    psnr, gaussians = run.metrics["psnr"], run.metrics.get("num_gaussians")
    steps, seconds = run.metrics.get("steps"), run.metrics.get("train_seconds")
    count = f"{int(gaussians):,} Gaussians" if is_number(gaussians) else "a scene"
    spent = f"In {int(steps):,} steps" if is_number(steps) else "In training"
    spent += f" and {duration(seconds)}" if is_number(seconds) and seconds > 0 else ""
    verdict = next(words for least, words in VERDICTS if psnr >= least)
    splits = {"test": "held-out photographs, never trained on", "train": "the photographs it was trained on"}
    against = splits.get(str(run.metrics.get("split")), "photographs")
    return f"{spent}, photographs became {count}. Against {against}, the renders are {verdict}."


def _text(run: RunFolder) -> Headline:
    bits, steps = run.metrics.get("bits_per_byte"), run.metrics.get("steps")
    spent = f"In {int(steps):,} steps, it" if is_number(steps) else "It"
    before = f"{spent} learned to predict held-out text with "
    if is_number(bits):
        return Headline(before, f"{bits:.3f} bits a byte", ": 8 is guessing, and a good compressor needs about 2.")
    return Headline(f"{before}a loss of ", f"{run.metrics['loss']:.4g}", " nats a token.")


def _range(run: RunFolder) -> str:
    """The best and the worst view."""
    scores = _scores(run)
    if len(scores) < 3:
        return ""
    (low, worst), (high, best) = scores[0], scores[-1]
    return f"Views range from {low:.1f} dB ({worst}) to {high:.1f} dB ({best})."


def _outlier(run: RunFolder) -> str:
    scores, mean = _scores(run), run.metrics.get("psnr")
    if len(scores) < 3 or not is_number(mean) or scores[0][0] > mean - FAR_BELOW:
        return ""
    return f"Look at {scores[0][1]} first: its pose, its exposure, or something that moved may be to blame."


def _cap(run: RunFolder) -> str:
    densify, count = run.config.get("densify"), run.metrics.get("num_gaussians")
    cap = densify.get("cap") if isinstance(densify, dict) else None
    if not is_number(cap) or not is_number(count) or not 0 < 0.99 * cap <= count:
        return ""
    return f"The scene grew to its cap of {int(cap):,} Gaussians: a higher densify.cap may show more detail."


def _unfinished(run: RunFolder) -> str:
    values = [value for _, value in run.curves.get("loss", [])]
    fifth = len(values) // 5
    if fifth < 10:
        return ""
    last, before = values[-fifth:], values[-2 * fifth : -fifth]
    fall = fmean(before) - fmean(last)
    error = math.sqrt((variance(before) + variance(last)) / fifth)
    if fall <= max(STILL_FALLING * fmean(before), SURE * error):
        return ""
    share = fall / fmean(before)
    return f"The loss was still falling, by {share:.0%} over the last fifth of the steps: more of them may help."


def _scores(run: RunFolder) -> list[tuple[float, str]]:
    """PSNR and name of each view, the worst first."""
    rows = run.view_scores()[1]
    return sorted((float(row["psnr"]), str(row["name"])) for row in rows if is_number(row.get("psnr")))
