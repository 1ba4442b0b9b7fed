"""All that is looked at: pictures, videos and the report of a run."""
