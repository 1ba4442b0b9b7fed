"""The benchmark's parts: inputs, a clock for stages, counts of pairs, the machine's peaks, peers and scaling."""
