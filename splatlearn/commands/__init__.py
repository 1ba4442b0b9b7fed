"""One file a command: what `splatlearn NAME` does, put together from the layers below."""
