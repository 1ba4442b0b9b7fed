"""Fit a line through noisy points: the smallest task of the loop, and the one to read first."""

from splatlearn.line.bowl import Bowl
from splatlearn.line.data import NoisyLine
from splatlearn.line.neuron import LinearNeuron, squared_error
from splatlearn.line.task import LineTask

__all__ = ["Bowl", "LineTask", "LinearNeuron", "NoisyLine", "squared_error"]
