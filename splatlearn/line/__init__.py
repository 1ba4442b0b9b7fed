"""A line through noisy points: the smallest thing that the loop learns, and the one to read first."""

from splatlearn.line.data import NoisyLine
from splatlearn.line.neuron import LinearNeuron
from splatlearn.line.task import LineTask

__all__ = ["LineTask", "LinearNeuron", "NoisyLine"]
